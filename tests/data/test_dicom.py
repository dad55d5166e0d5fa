"""Files are written here with pydicom; its own pixel processing and the formulas of PS3.3 are the reference."""

import hashlib

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from antivenom.data import limits
from antivenom.data.dicom import Lookup, Window, read_dicom, read_head
from antivenom.data.reading import read_image
from antivenom.errors import ImageError

RAMP = np.arange(0, 4096, 16, dtype=np.int64).reshape(16, 16)  # 12 bits


@pytest.fixture
def written(tmp_path):
    """Write stored values as a DICOM file; further elements by keyword."""

    def write(stored, *, bits=12, signed=False, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, frames=0, **elements):
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = syntax
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
        allocated = 8 if bits <= 8 else 16
        file.Rows, file.Columns = stored.shape[1 if frames else 0 :][:2]
        file.SamplesPerPixel = 3 if photometric in ("RGB", "YBR_FULL") else 1
        if file.SamplesPerPixel == 3:
            file.PlanarConfiguration = 0
        file.BitsAllocated, file.BitsStored, file.HighBit = allocated, bits, bits - 1
        file.PixelRepresentation, file.PhotometricInterpretation = int(signed), photometric
        if frames:
            file.NumberOfFrames = frames
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content = stored.astype(f"{order}{'i' if signed else 'u'}{allocated // 8}").tobytes()
        file.PixelData = content + b"\0" * (len(content) % 2)
        file["PixelData"].VR = "OW" if allocated == 16 else "OB"
        for name, value in elements.items():
            setattr(file, name, value)
        path = tmp_path / "x.dcm"
        file.save_as(path, enforce_file_format=True)
        return path

    return write


def compressed(path, syntax, **options):
    file = pydicom.dcmread(path)
    file.compress(syntax, generate_instance_uid=False, **options)
    file.save_as(path)
    return path


def table(values, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(values) % 65536, first, bits]
    item.LUTData = np.asarray(values, dtype="<u2").tobytes()
    return [item]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, False), (16, False), (8, True), (12, True), (16, True)]
)
def test_stored_values_are_read_whatever_their_bits_and_sign(written, syntax, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    stored = np.linspace(low, low + 2**bits - 1, 48).astype(np.int64).reshape(6, 8)
    image = read_dicom(written(stored, bits=bits, signed=signed, syntax=syntax))
    np.testing.assert_array_equal(image.stored, stored)
    assert (image.bits, image.signed) == (bits, signed)
    assert image.grid == 1 / (2**bits - 1)
    assert image.raw.shape == (1, 6, 8)
    assert float(image.raw.min()) == 0
    assert float(image.raw.max()) == 1


def test_raw_goes_to_stored_values_and_back(written):
    stored = np.arange(-2048, 2048).reshape(64, 64)
    image = read_dicom(written(stored, signed=True))
    np.testing.assert_array_equal(image.to_stored(image.raw), stored)
    np.testing.assert_array_equal(image.to_stored((image.raw + 0.4 * image.grid).clamp(0, 1)), stored)
    moved = image.to_stored((image.raw + image.grid).clamp(0, 1))
    np.testing.assert_array_equal(moved, np.minimum(stored + 1, 2047))
    assert moved.dtype == image.stored.dtype
    for wrong in (image.raw + 1, image.raw * torch.nan):
        with pytest.raises(ImageError, match=r"\[0, 1\]"):
            image.to_stored(wrong)


def test_bits_above_the_stored_ones_are_no_pixels(written):
    image = read_dicom(written(RAMP | 0xA000))  # an overlay in the upper four bits
    np.testing.assert_array_equal(image.stored, RAMP)


def test_monochrome1_is_the_negative_of_monochrome2(written):
    bright = read_dicom(written(RAMP)).pixels
    dark = read_dicom(written(RAMP, photometric="MONOCHROME1")).pixels
    assert float(bright[0, 0, 0]) == 0
    assert float(dark[0, 0, 0]) == 1
    torch.testing.assert_close(dark, 1 - bright)


def test_without_a_window_the_whole_stored_range_is_shown(written):
    """Not the image's own extremes: one changed pixel would shift all others."""
    flat = np.full((4, 4), 1000)
    dot = flat.copy()
    dot[0, 0] = 4095
    plain, dotted = read_dicom(written(flat)).pixels, read_dicom(written(dot)).pixels
    assert plain[0, 1, 1] == dotted[0, 1, 1] == pytest.approx(1000 / 4095)
    negative = read_dicom(written(RAMP, RescaleSlope=-1, RescaleIntercept=0)).pixels
    assert float(negative[0, 0, 0]) == 1
    assert float(negative[0, -1, -1]) == pytest.approx(1 - 4080 / 4095, abs=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.5, 100)])
def test_windows_agree_with_pydicom(written, function, slope, intercept):
    path = written(
        RAMP,
        **{"WindowCenter": 600, "WindowWidth": 900, "VOILUTFunction": function},
        **{"RescaleSlope": slope, "RescaleIntercept": intercept},
    )
    ends = np.array([0, 4095]) * slope + intercept
    file = pydicom.dcmread(path)
    theirs = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
    np.testing.assert_allclose(read_dicom(path).pixels[0], (theirs - ends[0]) / np.ptp(ends), atol=2e-6)


def test_windows_follow_the_formulas_of_the_standard():
    values = torch.tensor([-1e6, 0.0, 49.5, 50.0, 99.0, 1e6])
    assert Window(50, 100)(values).tolist() == pytest.approx([0, 0, 0.5, 50 / 99, 1, 1])
    assert Window(50, 100, "LINEAR_EXACT")(values).tolist() == pytest.approx([0, 0, 0.495, 0.5, 0.99, 1])
    assert Window(50, 100, "SIGMOID")(values)[3] == 0.5
    assert Window(50, 1)(torch.tensor([49.4, 49.6])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (-1, "LINEAR_EXACT"), (5, "CUBIC")]
)
def test_windows_that_cannot_be_are_refused(written, width, function):
    path = written(RAMP, WindowCenter=10, WindowWidth=width, VOILUTFunction=function)
    with pytest.raises(ImageError, match=r"x\.dcm: window"):
        read_dicom(path)


def test_of_several_windows_the_first_is_shown_and_a_caller_may_choose(written):
    alone = read_dicom(written(RAMP, WindowCenter=600, WindowWidth=900)).pixels
    path = written(RAMP, WindowCenter=[600, 2000], WindowWidth=[900, 100])
    assert torch.equal(read_dicom(path).pixels, alone)
    assert torch.equal(
        read_dicom(path, window=Window(2000, 100)).pixels, Window(2000, 100)(torch.from_numpy(RAMP)[None].float())
    )


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_table_of_values_of_interest_is_looked_up_and_goes_before_a_window(written, bits):
    values = (np.linspace(0, 1, 300) ** 2 * (2**bits - 1)).astype(int)
    path = written(RAMP, VOILUTSequence=table(values, 1000, bits), WindowCenter=1, WindowWidth=2)
    wanted = values[np.clip(RAMP - 1000, 0, 299)] / (2**bits - 1)
    np.testing.assert_allclose(read_dicom(path).pixels[0], wanted, atol=1e-6)
    if bits > 8:  # pydicom's own lookup wraps around at 256 entries of 8 bits
        file = pydicom.dcmread(path)
        np.testing.assert_allclose(apply_voi_lut(file.pixel_array, file) / (2**bits - 1), wanted)


def test_modality_tables_agree_with_pydicom(written):
    values = (np.linspace(0, 1, 4096) ** 0.5 * 4000).astype(int)
    path = written(RAMP, ModalityLUTSequence=table(values, 0, 16), WindowCenter=2000, WindowWidth=4000)
    file = pydicom.dcmread(path)
    theirs = Window(2000, 4000)(torch.from_numpy(apply_modality_lut(file.pixel_array, file).astype(np.float32)))
    torch.testing.assert_close(read_dicom(path).pixels[0], theirs, atol=1e-5, rtol=0)


def test_tables_may_begin_below_zero_and_hold_65536_entries(written):
    stored = np.array([[-300, -100], [0, 200]])
    path = written(stored, signed=True, VOILUTSequence=table([0, 50, 100, 255], -100, 8))
    np.testing.assert_allclose(read_dicom(path).pixels[0] * 255, [[0, 0], [255, 255]])
    path = written(np.array([[0, 65535]]), bits=16, VOILUTSequence=table(np.arange(65536), 0, 16))
    assert read_dicom(path).pixels.tolist() == [[[0, 1]]]


@pytest.mark.parametrize("elements", [{"signed": True}, {"RescaleIntercept": -1024, "RescaleSlope": 1}])
def test_a_negative_first_value_written_without_its_sign_is_understood(written, elements):
    plain = table([0, 255], -500, 8)
    bare = table([0, 255], 2**16 - 500, 8)
    for item in (plain[0], bare[0]):
        item["LUTDescriptor"].VR = "SS" if item is plain[0] else "US"
    stored = np.array([[0, 523], [524, 525]]) - (1024 if "signed" in elements else 0)
    for lookup in (plain, bare):
        image = read_dicom(written(stored, VOILUTSequence=lookup, **elements))
        assert image.pixels.tolist() == [[[0, 0], [0, 1]]]


def test_a_short_table_is_refused(written):
    short = table([1, 2, 3], 0, 16)
    short[0].LUTDescriptor = [9, 0, 16]
    with pytest.raises(ImageError, match="promises 9 entries and holds 3"):
        read_dicom(written(RAMP, VOILUTSequence=short))


@pytest.mark.parametrize("interest", [None, Window(1000, 800), Window(1000, 800, "SIGMOID"), Lookup(500, (0.0, 0.3, 1.0))])
def test_presentation_is_differentiable_and_works_on_batches(written, interest):
    image = read_dicom(written(np.full((2, 2), 501)), window=interest)
    raw = image.raw[None].repeat(3, 1, 1, 1).requires_grad_()
    shown = image.presentation(raw)
    shown.sum().backward()
    assert shown.shape == (3, 1, 2, 2)
    assert torch.equal(shown[1], image.pixels)
    assert raw.grad.isfinite().all()
    assert interest == Window(1000, 800) or (raw.grad > 0).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (16, True)])
def test_lossless_compression_changes_nothing(written, syntax, bits, signed):
    rng, low = np.random.default_rng(0), -(2 ** (bits - 1)) if signed else 0
    stored = rng.integers(low, low + 2**bits, (32, 32))
    np.testing.assert_array_equal(read_dicom(compressed(written(stored, bits=bits, signed=signed), syntax)).stored, stored)


def test_jpeg_baseline_is_read(written):
    from io import BytesIO

    from PIL import Image
    from pydicom.encaps import encapsulate

    smooth = np.tile(np.arange(64)[:, None] * 3, (1, 64))
    buffer = BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    file = pydicom.dcmread(path := written(smooth, bits=8))
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file.PixelData = encapsulate([buffer.getvalue()])
    file.save_as(path)
    assert np.abs(read_dicom(path).stored.astype(int) - smooth).max() < 4


def test_a_missing_decoder_is_named_with_what_to_do(written):
    path = compressed(written(RAMP), JPEGLSLossless)
    decoder = get_decoder(JPEGLSLossless)
    plugins, decoder._available = decoder._available, {}
    try:
        with pytest.raises(ImageError, match=r"x\.dcm: JPEG-LS Lossless.*antivenom\[dicom\]") as raised:
            read_dicom(path)
        assert "\n" not in str(raised.value)
    finally:
        decoder._available = plugins
    assert read_dicom(path).bits == 12


def test_a_compression_that_nobody_decodes_here_is_named(written):
    file = pydicom.dcmread(path := compressed(written(RAMP), JPEGLSLossless))
    file.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    file.save_as(path)
    with pytest.raises(ImageError, match=r"JPEG Lossless.*cannot be decoded"):
        read_dicom(path)


def test_one_of_several_frames_is_chosen_by_name(written):
    path = written(np.stack([RAMP, RAMP[::-1]]), frames=2)
    with pytest.raises(ImageError, match="holds 2 frames"):
        read_dicom(path)
    np.testing.assert_array_equal(read_dicom(path, frame=1).stored, RAMP[::-1])
    for wrong in (2, -1):
        with pytest.raises(ImageError, match=f"no frame {wrong}"):
            read_dicom(path, frame=wrong)


def test_an_enhanced_file_keeps_its_window_in_groups(written):
    window, rescale, frame, shared = Dataset(), Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 600, 900
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
    frame.FrameVOILUTSequence, shared.PixelValueTransformationSequence = [window], [rescale]
    plain = written(RAMP, WindowCenter=600, WindowWidth=900, RescaleSlope=2, RescaleIntercept=-100)
    alone = read_dicom(plain).pixels
    path = written(RAMP[None], frames=1, PerFrameFunctionalGroupsSequence=[frame], SharedFunctionalGroupsSequence=[shared])
    assert torch.equal(read_dicom(path).pixels, alone)


def test_colour_is_handed_out_as_rgb(written):
    colour = np.stack([np.full((4, 4), 200), np.full((4, 4), 100), np.arange(16).reshape(4, 4)], -1)
    image = read_dicom(written(colour, bits=8, photometric="RGB"))
    assert image.pixels.shape == (3, 4, 4)
    assert float(image.pixels[0, 0, 0]) == pytest.approx(200 / 255)
    np.testing.assert_array_equal(image.to_stored(image.raw), colour)
    grey = np.stack([np.full((4, 4), 90), np.full((4, 4), 128), np.full((4, 4), 128)], -1)
    assert read_dicom(written(grey, bits=8, photometric="YBR_FULL")).stored[0, 0].tolist() == [90, 90, 90]


def test_spacing_is_read_where_it_makes_sense(written):
    assert read_dicom(written(RAMP, PixelSpacing=[0.2, 0.3])).spacing == (0.2, 0.3)
    assert read_dicom(written(RAMP, ImagerPixelSpacing=[0.1, 0.1])).spacing == (0.1, 0.1)
    assert read_dicom(written(RAMP)).spacing is read_dicom(written(RAMP, PixelSpacing=[0, 1])).spacing is None


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"photometric": "PALETTE COLOR"}, "PALETTE COLOR is not read"),
        ({"RescaleSlope": 0}, "rescale slope"),
        ({"syntax": DeflatedExplicitVRLittleEndian}, "deflated"),
    ],
)
def test_files_that_make_no_sense_here_are_refused(written, elements, says):
    with pytest.raises(ImageError, match=says):
        read_dicom(written(RAMP, **elements))


def test_a_file_without_pixels_says_what_is_missing(written):
    file = pydicom.dcmread(path := written(RAMP))
    del file.PixelData, file.Rows
    file.save_as(path)
    with pytest.raises(ImageError, match="Rows, PixelData missing"):
        read_dicom(path)


def test_truncated_and_foreign_files_are_refused(written, tmp_path):
    path = written(RAMP)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageError, match=r"x\.dcm"):
        read_dicom(path)
    (tmp_path / "text.dcm").write_text("no image")
    for wrong in ("text.dcm", "gone.dcm"):
        with pytest.raises(ImageError, match=wrong):
            read_dicom(tmp_path / wrong)


def test_size_is_checked_before_pixels_are_decoded(written, monkeypatch):
    path = written(RAMP)
    monkeypatch.setattr(limits, "MAX_PIXELS", 255)
    with pytest.raises(ImageError, match="16 x 16 pixels"):
        read_dicom(path)


def test_the_door_reads_dicom_as_it_is_displayed(written):
    path = written(RAMP, WindowCenter=600, WindowWidth=900)
    assert torch.equal(read_image(path), read_dicom(path).pixels)
    assert read_image(path, channels=3).shape == (3, 16, 16)


def test_heads_tell_patients_apart_without_naming_them(written):
    first = read_head(written(RAMP, PatientID="12345", Manufacturer="Maker", ManufacturerModelName="X1"))
    second = read_head(written(RAMP, PatientID="67890"))
    assert first.scanner == "Maker X1"
    assert second.scanner == ""
    assert first.patient != second.patient
    assert "12345" not in first.patient
    assert first.patient == hashlib.sha256(b"|12345").hexdigest()[:16]
    assert read_head(written(RAMP)).patient == ""


def test_real_chest_x_rays_are_read(data_root):
    """The third file has the second one's very values under MONOCHROME1, so it must be shown as its negative."""
    folder = data_root / "cxr_dicom"
    plain = read_dicom(folder / "nih_cxr_nofinding.dcm")
    bright, inverted = (read_dicom(folder / f"rsna_cxr_monochrome{k}.dcm") for k in ("2", "1_inverted"))
    assert plain.stored.shape == bright.stored.shape == (1024, 1024)
    assert bright.spacing == (0.168, 0.168)
    np.testing.assert_array_equal(inverted.stored, bright.stored)
    torch.testing.assert_close(inverted.pixels, 1 - bright.pixels)
    for image in (plain, bright, inverted):
        np.testing.assert_array_equal(image.to_stored(image.raw), image.stored)
        assert 0.2 < float(image.pixels.mean()) < 0.8
