"""What is written is read again to the last bit, and an attack that ended on the stored grid still succeeds."""

import errno
import os

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from antivenom.attacks.pgd import pgd
from antivenom.data.dicom import read_dicom
from antivenom.data.reading import read_image
from antivenom.data.writing import DERIVATION, Dicom, Npz, Png, own_format, stored_grid, write_whole
from antivenom.errors import DataError, ImageError, SettingsError
from antivenom.randomness import Draws
from antivenom.threat.goals import Untargeted
from antivenom.threat.perturbations import Linf
from antivenom.threat.pixels import Pixels
from toys import small_network

NAME = "Zoë^Ward"


@pytest.fixture
def dicom(tmp_path):
    """Write stored values as a DICOM file; further elements by keyword."""

    def write(stored, *, bits=12, signed=False, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, **elements):
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = syntax
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
        file.SpecificCharacterSet, file.PatientName, file.PatientID = "ISO_IR 100", NAME, "7"
        file.Rows, file.Columns = stored.shape[:2]
        file.SamplesPerPixel = 3 if stored.ndim == 3 else 1
        if stored.ndim == 3:
            file.PlanarConfiguration = 0
        allocated = 8 if bits <= 8 else 16
        file.BitsAllocated, file.BitsStored, file.HighBit = allocated, bits, bits - 1
        file.PixelRepresentation, file.PhotometricInterpretation = int(signed), photometric
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content = stored.astype(f"{order}{'i' if signed else 'u'}{allocated // 8}").tobytes()
        file.PixelData = content + b"\0" * (len(content) % 2)
        file["PixelData"].VR = "OW" if allocated == 16 else "OB"
        for name, value in elements.items():
            setattr(file, name, value)
        path = tmp_path / "source.dcm"
        file.save_as(path, enforce_file_format=True)
        return path

    return write


def noise(bits=12, signed=False, size=(9, 7)):
    """Stored values from end to end."""
    low = -(2 ** (bits - 1)) if signed else 0
    return np.random.default_rng(0).integers(low, low + 2**bits, size)


PICTURES = {
    "PNG of 8 bits": (Png(), noise(8, size=(1, 9, 7)) / 255),
    "PNG of 8 bits in colour": (Png(), noise(8, size=(3, 9, 7)) / 255),
    "PNG of 16 bits": (Png(65535), noise(16, size=(1, 9, 7)) / 65535),
    "NPZ of 8 bits": (Npz(255), noise(8, size=(1, 9, 7)) / 255),
    "NPZ of 16 bits in colour": (Npz(65535), noise(16, size=(3, 9, 7)) / 65535),
}
FILES = {
    "DICOM of 8 bits": (noise(8), {"bits": 8}),
    "DICOM of 12 bits": (noise(), {}),
    "DICOM with a sign": (noise(16, True), {"bits": 16, "signed": True, "RescaleIntercept": -1024, "RescaleSlope": 1}),
    "DICOM with a falling rescale": (noise(), {"RescaleIntercept": 0, "RescaleSlope": -2}),
    "DICOM of MONOCHROME1": (noise(), {"photometric": "MONOCHROME1"}),
    "DICOM with a window": (noise(), {"WindowCenter": 2000, "WindowWidth": 2400}),
    "MONOCHROME1 with a window": (noise(), {"photometric": "MONOCHROME1", "WindowCenter": 2000, "WindowWidth": 2400}),
    "DICOM in colour": (noise(8, size=(9, 7, 3)), {"bits": 8, "photometric": "RGB"}),
}
KINDS = pytest.mark.parametrize("kind", [*PICTURES, *FILES])


@pytest.fixture
def original(dicom):
    """A format and an image that lies on its grid."""

    def give(kind):
        if kind in PICTURES:
            form, pixels = PICTURES[kind]
            return form, form.nearest(torch.from_numpy(pixels).float())
        stored, elements = FILES[kind]
        form = Dicom(dicom(stored, **elements))
        return form, read_image(form.source)

    return give


@KINDS
def test_an_attack_on_the_grid_survives_storage(original, tmp_path, kind):
    form, image = original(kind)
    model = small_network(len(image))
    y = model(image[None]).argmax(1)
    allowed = Linf(0.4, Pixels(grid=form.grid))
    found = pgd(model, image[None], Untargeted(y), allowed, generator=Draws.of(0, torch.arange(1)))
    assert found.success.all()
    assert not torch.equal(found.x_adv[0], image)

    path = tmp_path / f"stored{form.suffix}"
    form.write(found.x_adv[0], path)
    again = read_image(path, channels=len(image))
    # x + k / 255, added up in float32, may differ in its last bit from (x + k) / 255 as a reader divides it.
    torch.testing.assert_close(again, found.x_adv[0], rtol=0, atol=2e-7)
    assert torch.equal(again, form.nearest(found.x_adv[0]))
    assert torch.equal(model(again[None]), model(form.nearest(found.x_adv[0])[None]))
    assert torch.equal(model(again[None]).argmax(1) != y, found.success)
    assert stored_grid(path) == pytest.approx(form.grid, rel=1e-9)


@KINDS
def test_what_was_read_is_written_as_it_was(original, tmp_path, kind):
    form, image = original(kind)
    assert torch.equal(form.nearest(image), image)
    path = tmp_path / f"stored{form.suffix}"
    form.write(image, path)
    assert torch.equal(read_image(path), image)
    if isinstance(form, Dicom):
        np.testing.assert_array_equal(read_dicom(path).stored, read_dicom(form.source).stored)


@pytest.mark.parametrize("form", [Png(), Png(65535), Npz(255), Npz(65535)])
def test_nothing_is_cut_off(form):
    """254.9999 is 255 and not 254; half a step decides."""
    top, step = form.highest, form.grid
    image = torch.tensor([1 - 1e-4 * step, 1.4 * step, 1.6 * step, 0.4 * step, 1 + 5e-7, -5e-7]).reshape(1, 2, 3)
    assert (form.nearest(image) * top).round().flatten().tolist() == [top, 1, 2, 0, top, 0]


def test_dicom_takes_the_nearest_value_too(dicom):
    form = Dicom(dicom(np.full((1, 4), 100)))
    image = form.grid * torch.tensor([[[4095 - 1e-3, 99.6, 100.4, 100.6]]], dtype=torch.float64)
    assert form.stored(image.float()).tolist() == [[4095, 100, 100, 101]]


def test_floats_are_stored_as_they_are(tmp_path):
    image = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0))  # as wide as it has channels
    Npz().write(image, tmp_path / "x.npz")
    assert torch.equal(read_image(tmp_path / "x.npz"), image)
    assert stored_grid(tmp_path / "x.npz") is None
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        assert stored["image"].dtype == np.float32


# -- DICOM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, False), (16, True)])
def test_only_the_pixels_change(dicom, tmp_path, syntax, bits, signed):
    source = dicom(noise(bits, signed), bits=bits, signed=signed, syntax=syntax, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    form = Dicom(source)
    image = read_image(source)
    moved = (image + form.grid).clamp(0, 1)
    form.write(moved, tmp_path / "x.dcm")
    before, after = read_dicom(source), read_dicom(tmp_path / "x.dcm")
    np.testing.assert_array_equal(after.stored, np.minimum(before.stored.astype(int) + 1, before.presentation.highest))
    assert (after.bits, after.signed, after.presentation) == (before.bits, before.signed, before.presentation)

    old, new = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "x.dcm")
    changed = {e.keyword for e in new if e.tag not in old or old[e.tag].value != e.value}
    marks = {"SOPInstanceUID", "ImageType", "DerivationDescription", "SourceImageSequence"}
    assert changed == {"PixelData", *marks}
    assert {e.tag for e in old} <= {e.tag for e in new}
    assert new.file_meta.TransferSyntaxUID == syntax
    assert new.PatientName == NAME
    assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert new.DerivationDescription == DERIVATION
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
    assert new.SOPInstanceUID == new.file_meta.MediaStorageSOPInstanceUID != old.SOPInstanceUID


def test_the_name_of_a_derived_image_follows_from_its_pixels(dicom, tmp_path):
    form = Dicom(dicom(noise()))
    image = read_image(form.source)
    names = []
    for number, moved in enumerate((image, image, 1 - image)):
        form.write(moved, tmp_path / f"{number}.dcm")
        names.append(pydicom.dcmread(tmp_path / f"{number}.dcm").SOPInstanceUID)
    assert names[0] == names[1] != names[2]


def test_what_an_earlier_derivation_said_stays(dicom, tmp_path):
    source = dicom(noise(), ImageType=["DERIVED"], DerivationDescription="x" * 1020)
    Dicom(source).write(read_image(source), tmp_path / "x.dcm")
    new = pydicom.dcmread(tmp_path / "x.dcm")
    assert new.DerivationDescription.startswith("xxx")
    assert new.DerivationDescription.endswith(DERIVATION)
    assert len(new.DerivationDescription) == 1024
    assert list(new.ImageType) == ["DERIVED", "SECONDARY"]


def test_what_the_window_does_not_show_is_kept(dicom, tmp_path):
    """Many stored values look black; a pixel that stays black keeps its own, one that turns black takes the nearest."""
    window = {"WindowCenter": 150, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}  # shows 100 to 200
    form = Dicom(dicom(np.array([[5, 90, 150, 1000]]), **window))
    image = read_image(form.source)
    assert image.flatten().tolist() == pytest.approx([0, 0, 0.5, 1])
    form.write(image, tmp_path / "x.dcm")
    assert read_dicom(tmp_path / "x.dcm").stored.tolist() == [[5, 90, 150, 1000]]
    form.write(torch.tensor([[[0.1, 0, 0, 0]]]), tmp_path / "x.dcm")
    assert read_dicom(tmp_path / "x.dcm").stored.tolist() == [[110, 90, 100, 100]]


def test_overlays_above_the_stored_bits_stay(dicom, tmp_path):
    stored = noise(12)
    form = Dicom(dicom(stored | 0xA000))
    form.write(1 - read_image(form.source), tmp_path / "x.dcm")
    words = np.frombuffer(pydicom.dcmread(tmp_path / "x.dcm").PixelData, "<u2").reshape(stored.shape)
    np.testing.assert_array_equal(words, (4095 - stored) | 0xA000)


def test_a_sign_is_written_out_where_it_was(dicom, tmp_path):
    """12 bits in 16: a viewer that ignores the stored bits must not take -1 for 4095."""
    form = Dicom(dicom(noise(12, True), signed=True))
    form.write(1 - read_image(form.source), tmp_path / "x.dcm")
    words = np.frombuffer(pydicom.dcmread(tmp_path / "x.dcm").PixelData, "<i2").reshape(9, 7)
    np.testing.assert_array_equal(words, -1 - noise(12, True))


def test_pixels_that_lie_in_the_upper_bits_are_refused(dicom, tmp_path):
    form = Dicom(dicom(noise(12) << 4, HighBit=15))
    with pytest.raises(ImageError, match="end at bit 15 of 16"):
        form.write(read_image(form.source), tmp_path / "x.dcm")


def test_stated_extremes_are_those_of_the_new_pixels(dicom, tmp_path):
    form = Dicom(dicom(noise(12), SmallestImagePixelValue=0, LargestImagePixelValue=4095))
    form.write(torch.full((1, 9, 7), 100 / 4095), tmp_path / "x.dcm")
    new = pydicom.dcmread(tmp_path / "x.dcm")
    assert (new.SmallestImagePixelValue, new.LargestImagePixelValue) == (100, 100)


def test_a_compressed_file_is_written_uncompressed(dicom, tmp_path):
    source = dicom(noise())
    file = pydicom.dcmread(source)
    file.compress(RLELossless, generate_instance_uid=False)
    file.save_as(source)
    form = Dicom(source)
    moved = 1 - read_image(source)
    form.write(moved, tmp_path / "x.dcm")
    assert pydicom.dcmread(tmp_path / "x.dcm").file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert torch.equal(read_image(tmp_path / "x.dcm"), form.nearest(moved))


def table(entries, first):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, 8], np.asarray(entries, dtype="<u2").tobytes()
    return [item]


def test_a_table_that_does_not_rise_is_followed_too(dicom):
    """Values 0 to 3 are shown as 0, 200, 100, 200: nearest means nearest in what is seen."""
    form = Dicom(dicom(np.array([[0, 1, 2, 3]]), bits=8, VOILUTSequence=table([0, 200, 100, 200], 0)))
    assert form.stored(torch.tensor([[[0.41, 0.4, 0.78, 0.78]]])).tolist() == [[2, 2, 1, 3]]
    assert form.grid is None or form.grid == pytest.approx(100 / 255)


@pytest.mark.parametrize(
    ("elements", "grid"),
    [
        ({}, 1 / 4095),
        ({"RescaleSlope": 2.5, "RescaleIntercept": -7}, 1 / 4095),
        ({"WindowCenter": 600, "WindowWidth": 901}, 1 / 900),
        ({"WindowCenter": 600, "WindowWidth": 901, "RescaleSlope": -0.5, "RescaleIntercept": 700}, 0.5 / 900),
        ({"WindowCenter": 600, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"}, 1 / 900),
        ({"WindowCenter": 600, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}, None),
    ],
)
def test_the_grid_is_the_step_in_what_is_seen(dicom, elements, grid):
    found = stored_grid(dicom(noise(), **elements))
    assert found == (grid if grid is None else pytest.approx(grid, rel=1e-9))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image[:, :4], "9 x 7 pixels, the image has 4 x 7"),
        (lambda image: torch.cat([image, image, 1 - image]), "tied channels"),
        (lambda image: image * torch.nan, "finite"),
        (lambda image: image + 1, r"\[0, 1\]"),
        (lambda image: (255 * image).byte(), "uint8"),
        (lambda image: image[0], "shape"),
    ],
)
def test_what_the_file_cannot_hold_is_refused(dicom, tmp_path, change, said):
    form = Dicom(dicom(noise()))
    with pytest.raises(ImageError, match=said):
        form.write(change(read_image(form.source)), tmp_path / "x.dcm")
    assert not (tmp_path / "x.dcm").exists()


def test_a_grey_file_takes_three_equal_channels_and_a_colour_one_no_grey(dicom, tmp_path):
    grey = Dicom(dicom(noise()))
    image = read_image(grey.source, channels=3)
    grey.write(image, tmp_path / "x.dcm")
    assert torch.equal(read_image(tmp_path / "x.dcm", channels=3), image)
    colour = Dicom(dicom(noise(8, size=(9, 7, 3)), bits=8, photometric="RGB"))
    with pytest.raises(ImageError, match="in colour and the image is grey"):
        colour.write(image[:1], tmp_path / "x.dcm")


def test_single_bits_are_refused(dicom, tmp_path):
    source = dicom(np.zeros((4, 4)), bits=8)
    file = pydicom.dcmread(source)
    file.BitsAllocated = file.BitsStored = 1
    file.HighBit, file.PixelData = 0, b"\x0f\x0f"
    file.save_as(source)
    with pytest.raises(ImageError, match="of 1 are not written"):
        Dicom(source).write(read_image(source), tmp_path / "x.dcm")


# -- which format ------------------------------------------------------------------------------------------------------


def test_the_own_format_is_told_by_the_file(dicom, tmp_path):
    grey, colour = np.zeros((4, 5), dtype=np.uint8), np.zeros((4, 5, 3), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(colour).save(tmp_path / "8.jpg")
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "16.tif")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
    np.save(tmp_path / "bool.npy", grey.astype(bool))
    np.savez(tmp_path / "16.npz", grey.astype(np.uint16))
    np.savez(tmp_path / "float.npz", grey.astype(np.float64))
    kinds = {
        "8.png": Png(),
        "8.jpg": Png(),
        "16.png": Png(65535),
        "16.tif": Png(65535),
        "float.tif": Npz(),
        "bool.npy": Npz(255),
        "16.npz": Npz(65535),
        "float.npz": Npz(),
    }
    assert {name: own_format(tmp_path / name) for name in kinds} == kinds
    source = dicom(noise())
    assert own_format(source.rename(tmp_path / "no-suffix")) == Dicom(tmp_path / "no-suffix")


def test_a_file_that_is_no_image_has_no_format(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    np.savez(tmp_path / "empty.npz")
    np.save(tmp_path / "long.npy", np.zeros((2, 2), dtype=np.int64))
    for name in ("x.png", "empty.npz", "long.npy", "absent.png"):
        with pytest.raises(ImageError, match=name):
            stored_grid(tmp_path / name)


def test_colour_of_16_bits_is_no_png(tmp_path):
    with pytest.raises(ImageError, match="store it as NPZ"):
        Png(65535).write(torch.rand(3, 4, 4), tmp_path / "x.png")


@pytest.mark.parametrize("kind", [Png, Npz])
def test_other_depths_are_refused(kind):
    with pytest.raises(SettingsError, match="4095"):
        kind(4095)


# -- whole or not at all -----------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.png"
    Png().write(torch.zeros(1, 4, 4), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        Png().write(torch.ones(1, 4, 4), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_is_not_read_back_as_it_was_meant_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Png, "encode", lambda *_: Npz().encode(torch.zeros(1, 4, 4)))
    with pytest.raises(ImageError, match="not read back"):
        Png().write(torch.ones(1, 4, 4), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_at_any_moment(tmp_path):
    path = tmp_path / "x.csv"
    write_whole(path, b"old")

    def check(draft):
        assert path.read_bytes() == b"old"
        assert draft.read_bytes() == b"new"

    write_whole(path, b"new", check)
    assert path.read_bytes() == b"new"
