"""What stands in the records is what the files say when they are read again, whatever happened while they were written."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from antivenom.data.folder import Label, labels_csv
from antivenom.data.imageset import ImageSet, Index
from antivenom.data.reading import read_image
from antivenom.data.writing import Dicom, Format, Npz, Png
from antivenom.errors import DataError, ImageError, ModelError, RecordsError, SettingsError
from antivenom.evaluation import adversarial_files
from antivenom.evaluation.adversarial_files import Order, file_name, summary, write_adversarial
from antivenom.evaluation.protocol import Row
from antivenom.models.classifier import Classifier
from antivenom.models.execution import Victim
from antivenom.task import Task
from toys import small_network

TASK = Task(("normal", "mild", "severe"))
FINDINGS = Task(("Effusion", "Mass", "Nodule"), multilabel=True)


def classifier(task=TASK, channels=1):
    """A network that answers noise with every class."""
    network = small_network(channels)
    with torch.no_grad():
        network[-1].bias -= network(pixels(64, channels=channels)).mean(0)
    return Classifier(network, task, channels=channels, mean=0.0, std=1.0).eval()


def images_of(pixels, *, model=None, targets=None, keys=None, groups=None, splits=None, task=TASK):
    """A set of these images; each is of the class that the model takes it for, where nothing else is said."""
    if targets is None:
        targets = [int(model(image[None]).argmax()) for image in pixels]
    keys = keys or [f"ward/{i}.png" for i in range(len(pixels))]
    index = Index.of(keys, targets, groups=groups, splits=splits or ["test"] * len(keys))
    return ImageSet("toys", task, index, lambda row: pixels[row], channels=len(pixels[0]))


def pixels(count=12, size=(12, 10), channels=1, seed=0):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def order(epsilon=4 / 255, *, threat="linf", goal="untargeted", until="fooled", **options):
    settings = {"steps": 5, "step_size": 0.4}
    row = Row(attack="pgd", settings=settings, goal=goal, threat=threat, epsilon=epsilon, until=until)
    return Order(row, **options)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards of a few images, and no choice of execution by the clock, which two folders may make differently."""
    monkeypatch.setattr(adversarial_files, "SHARD", 5)
    monkeypatch.setattr(adversarial_files, "accelerate", lambda model, _, batch: Victim(model, model, batch))


def test_the_records_say_what_the_files_say(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model)
    told = []
    records = write_adversarial(model, data, order(), tmp_path, command="typed", progress=lambda *said: told.append(said))
    assert [record["image"] for record in records] == data.keys
    successes = 0
    for record, sample in zip(records, data, strict=True):
        again = read_image(tmp_path / record["filename"], channels=1)
        start = Png().nearest(sample.image)
        decision = TASK.classes[int(model(again[None]).argmax())]
        assert decision == record["decision_stored"] == record["decision_attacked"]
        assert int(record["success_stored"]) == int(record["success"]) == (decision != record["label"])
        assert float(record["linf"]) == pytest.approx(float((again - start).abs().max()), rel=1e-6)
        assert float(record["linf"]) <= 4 / 255 + 1e-6
        assert float(record["l2"]) == pytest.approx(float((again - start).norm()), rel=1e-6)
        assert int(record["queries"]) > 0
        successes += int(record["success"])
    assert 0 < successes < 12
    assert [said[:2] for said in told] == [(0, 12), (5, 12), (5, 12), (10, 12), (10, 12), (12, 12)]
    with (tmp_path / "records.csv").open() as file:
        assert list(csv.DictReader(file)) == records
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["success_stored"]["n"] == sum(record["reached_clean"] == "0" for record in records)
    assert json.loads((tmp_path / "provenance.json").read_text())["command"] == "typed"


def test_the_images_are_a_set_again(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model, groups=[f"p{i // 2}" for i in range(12)], splits=["val"] * 4 + ["test"] * 8)
    records = write_adversarial(model, data, order(), tmp_path)
    again = labels_csv(tmp_path, table="records.csv", label=Label("label", TASK.classes))
    assert again.groups == data.groups
    assert again.split("test").keys == [record["filename"] for record in records[4:]]
    assert torch.equal(again.targets, data.targets)


def test_images_off_the_grid_are_put_on_it_first(tmp_path):
    """A resampled image lies between the values of 8 bits: rounded afterwards, an attack could be undone."""
    model = classifier()
    data = images_of(pixels(40), model=model)
    on = write_adversarial(model, data, order(2 / 255), tmp_path / "on")
    off = write_adversarial(model, data, order(2 / 255, stored_grid=False), tmp_path / "off")
    assert all(record["success"] == record["success_stored"] for record in on)
    assert max(float(record["linf"]) for record in on) == pytest.approx(2 / 255, rel=1e-4)
    assert max(float(record["linf"]) for record in off) == pytest.approx(2.5 / 255, rel=1e-2)
    own = write_adversarial(model, data, order(2 / 255, threat="linf, grid 1/255", stored_grid=False), tmp_path / "own")
    assert [r["l2"] for r in own] == [r["l2"] for r in on]
    assert any(record["success"] != record["success_stored"] for record in off)
    for record in off:
        decision = TASK.classes[int(model(read_image(tmp_path / "off" / record["filename"])[None]).argmax())]
        assert (record["success_stored"] == "1") == (decision == record["decision_stored"] != record["label"])


def test_floats_are_stored_without_a_grid(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model)
    records = write_adversarial(model, data, order(2.3 / 255, format="npz"), tmp_path)
    assert max(float(record["linf"]) for record in records) == pytest.approx(2.3 / 255, rel=1e-3)
    assert all(record["filename"].endswith(".npz") for record in records)


@pytest.mark.parametrize("colour", [1, 3])
def test_grey_and_colour_alike(tmp_path, colour):
    model = classifier(channels=colour)
    records = write_adversarial(model, images_of(pixels(channels=colour), model=model), order(), tmp_path)
    assert all(len(read_image(tmp_path / record["filename"])) == colour for record in records)


# -- killed and run again ----------------------------------------------------------------------------------------------


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "provenance.json"}


@pytest.mark.parametrize("images", [0, 3, 5, 7, 11])
def test_work_that_was_killed_goes_on(tmp_path, monkeypatch, images):
    model = classifier()
    data = images_of(pixels(), model=model)
    write_adversarial(model, data, order(), tmp_path / "whole")

    genuine, written = Format.write, []

    def some(self, image, path):
        if len(written) == images:
            (path.parent).mkdir(exist_ok=True)
            (path.parent / f".{path.name}.77.draft").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        genuine(self, image, path)

    monkeypatch.setattr(Format, "write", some)
    with pytest.raises(KeyboardInterrupt):
        write_adversarial(model, data, order(), tmp_path / "killed")
    assert not (tmp_path / "killed" / "records.csv").exists()

    def noting(self, image, path):
        written.append(path)
        genuine(self, image, path)

    written.clear()
    monkeypatch.setattr(Format, "write", noting)
    write_adversarial(model, data, order(), tmp_path / "killed")
    assert len(written) == 12 - images // 5 * 5  # a finished shard is not done again
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    written.clear()
    write_adversarial(model, data, order(), tmp_path / "killed")
    assert not written


def test_an_image_that_was_lost_is_made_again(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model)
    records = write_adversarial(model, data, order(), tmp_path)
    before = content(tmp_path)
    (tmp_path / records[7]["filename"]).unlink()
    write_adversarial(model, data, order(), tmp_path)
    assert content(tmp_path) == before


def test_other_work_is_not_mixed_in(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model)
    write_adversarial(model, data, order(), tmp_path)
    for other, said in (
        (order(5 / 255), "epsilon"),
        (order(seed=1), "seed"),
        (order(stored_grid=False), "stored_grid"),
        (order(format="npz"), "format"),
    ):
        with pytest.raises(RecordsError, match=f"another attack: its {said} differ"):
            write_adversarial(model, data, other, tmp_path)
    with pytest.raises(RecordsError, match="its data differ"):
        write_adversarial(model, data.take(range(11)), order(), tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "protocol.json").write_text("{}")
    with pytest.raises(RecordsError, match="holds an audit"):
        write_adversarial(model, data, order(), tmp_path / "b")


# -- where files go ----------------------------------------------------------------------------------------------------

AWKWARD = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/b.png",
    "a_b.png",
    "a/b.jpg",
    "images:3",
    "..",
    "CON",
    "a\\b",
    "ü.png",
    "x" * 300,
]


def test_no_name_leads_out_of_the_folder(tmp_path):
    model = classifier()
    data = images_of(pixels(len(AWKWARD)), model=model, keys=AWKWARD)
    records = write_adversarial(model, data, order(), tmp_path / "out")
    assert [record["image"] for record in records] == AWKWARD
    files = {p.name for p in (tmp_path / "out" / "images").iterdir()}
    assert files == {record["filename"].removeprefix("images/") for record in records}
    assert len({name.lower() for name in files}) == len(AWKWARD)
    assert max(map(len, files)) < 100
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_that_leads_out_is_not_followed(tmp_path):
    model = classifier()
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        write_adversarial(model, images_of(pixels(), model=model), order(), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_name_keeps_what_a_reader_knows_it_by():
    assert file_name("images/viral/person7_3.JPEG", ".png").startswith("images_viral_person7_3-")
    assert file_name("a/b.png", ".png") != file_name("a_b.png", ".png")


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ward(tmp_path, rng_stored):
    """A folder with one image in each format, and the set of them."""
    import pydicom

    home = tmp_path / "ward"
    home.mkdir()
    Image.fromarray((rng_stored // 16).astype(np.uint8)).save(home / "8.jpg", quality=100)
    Image.fromarray((rng_stored * 16).astype(np.uint16)).save(home / "16.png")
    np.savez(home / "float.npz", rng_stored / 4095)
    for name, photometric in (("a.dcm", "MONOCHROME2"), ("b.dcm", "MONOCHROME1")):
        file = pydicom.Dataset()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
        file.Rows, file.Columns = rng_stored.shape
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, photometric, 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
        file.PixelData = rng_stored.astype("<u2").tobytes()
        file["PixelData"].VR = "OW"
        file.save_as(home / name, enforce_file_format=True)
    return home


@pytest.fixture
def rng_stored():
    return np.random.default_rng(0).integers(0, 4096, (12, 10))


KINDS = {"8.jpg": ".png", "16.png": ".png", "float.npz": ".npz", "a.dcm": ".dcm", "b.dcm": ".dcm"}


def test_images_go_back_into_the_format_they_came_in(tmp_path, ward):
    model = classifier()
    data = images_of([read_image(ward / name) for name in KINDS], model=model, keys=list(KINDS))
    spent = order(0.21, until="spent", home=ward, native=True)
    records = write_adversarial(model, data, spent, tmp_path / "out")
    assert [record["filename"][-4:] for record in records] == list(KINDS.values())
    for record, steps in zip(records, (255, 65535, None, 4095, 4095), strict=True):  # each on its own grid
        largest = 0.21 if steps is None else math.floor(0.21 * steps) / steps
        assert float(record["linf"]) == pytest.approx(largest, abs=2e-5)
    assert all(record["success"] == record["success_stored"] for record in records)
    assert any(record["success"] == "1" for record in records)
    assert read_image(tmp_path / "out" / records[3]["filename"]).shape == (1, 12, 10)


def test_the_format_of_an_image(ward):
    native = order(home=ward, native=True)
    assert [native.form(name, 1) for name in KINDS] == [
        Png(),
        Png(65535),
        Npz(),
        *(Dicom(ward / name) for name in ("a.dcm", "b.dcm")),
    ]
    assert native.form("16.png", 3) == Npz(65535)
    assert native.form("file:7", 1) == native.form("../8.jpg", 1) == Png()
    resampled = order(home=ward)
    assert [resampled.form(name, 1) for name in KINDS] == [Png(), *[Npz()] * 4]
    assert order(format="png16").form("8.jpg", 1) == Png(65535)


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ({"format": "dicom", "native": True}, "8.jpg", "no DICOM file"),
        ({"format": "dicom"}, "a.dcm", "was resampled"),
        ({"format": "gif"}, "8.jpg", "no format 'gif'"),
    ],
)
def test_a_format_that_cannot_be_is_refused(ward, options, key, said):
    with pytest.raises(SettingsError, match=said):
        order(home=ward, **options).form(key, 1)


def test_images_of_several_sizes_are_attacked_each_as_it_is(tmp_path):
    model = classifier()
    several = [pixels(1, size, seed=i)[0] for i, size in enumerate([(12, 10), (16, 16), (12, 10), (8, 20)] * 2)]
    records = write_adversarial(model, images_of(several, model=model), order(native=True), tmp_path)
    for record, image in zip(records, several, strict=True):
        assert read_image(tmp_path / record["filename"]).shape == image.shape


# -- goals -------------------------------------------------------------------------------------------------------------


def test_only_images_that_the_goal_concerns_are_attacked(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model, targets=[i % 3 for i in range(12)])
    records = write_adversarial(model, data, order(0.3, goal="targeted: normal"), tmp_path)
    assert {record["label"] for record in records} == {"mild", "severe"}
    assert len(records) == 8
    for record in records:
        assert (record["decision_stored"] == "normal") == (record["success_stored"] == "1")
    none = data.take([0, 3])
    with pytest.raises(DataError, match="concerns none of 2 images"):
        write_adversarial(model, none, order(goal="targeted: normal"), tmp_path / "none")
    with pytest.raises(DataError, match="none of 0"):
        write_adversarial(model, data.take([]), order(), tmp_path / "none")


def test_findings_are_hidden_at_the_thresholds_of_validation_images(tmp_path):
    model = classifier(FINDINGS)
    targets = np.random.default_rng(0).integers(0, 2, (24, 3))
    data = images_of(pixels(24), targets=targets, splits=["val"] * 12 + ["test"] * 12, task=FINDINGS)
    hide = order(0.3, goal="hide: Mass")
    with pytest.raises(SettingsError, match="validation images"):
        write_adversarial(model, data.split("test"), hide, tmp_path)
    records = write_adversarial(model, data.split("test"), hide, tmp_path, vals=data.split("val"))
    assert len(records) == int(targets[12:, 1].sum())
    thresholds = json.loads((tmp_path / "operating.json").read_text())["thresholds"]
    for record in records:
        logits = model(read_image(tmp_path / record["filename"])[None])[0]
        assert ("Mass" in record["decision_stored"].split("|")) == bool(logits[1] > thresholds[1])
        assert "Mass" in record["label"].split("|")
        assert (record["success_stored"] == "1") == ("Mass" not in record["decision_stored"].split("|"))


def test_figures_count_images_that_were_right_and_their_patients():
    rows = [("a", 0, 1, 1), ("a", 0, 0, 0), ("b", 0, 1, 0), ("c", 1, 1, 1), ("d", 0, 0, 0)]
    columns = ("patient_id", "reached_clean", "success", "success_stored")
    figures = summary([dict(zip(columns, row, strict=True)) for row in rows])
    assert (figures["reached_clean"].value, figures["reached_clean"].n) == (0.2, 5)
    assert (figures["success"].value, figures["success"].n, figures["success"].groups) == (0.5, 4, 3)
    assert figures["success_stored"].value == 0.25
    assert (figures["groups_stored"].value, figures["groups_stored"].n) == (pytest.approx(1 / 3), 3)
    none = summary([dict(zip(columns, ("a", 1, 1, 1), strict=True))])
    assert not none["success"].measured
    assert not none["groups_stored"].measured


# -- what does not go together -----------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_is_and_must_be_ready(tmp_path):
    model = classifier()
    data = images_of(pixels(), model=model)
    before = model.digest()
    write_adversarial(model, data, order(), tmp_path / "a")
    assert model.digest() == before
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ModelError, match="training mode"):
        write_adversarial(model.train(), data, order(), tmp_path / "b")


def test_data_of_another_task_are_refused(tmp_path):
    model = classifier()
    with pytest.raises(DataError, match="but the model answers normal, mild, severe in 3"):
        write_adversarial(classifier(channels=3), images_of(pixels(), model=model), order(), tmp_path)
    with pytest.raises(DataError, match="the model answers Effusion"):
        write_adversarial(classifier(FINDINGS), images_of(pixels(), model=model), order(), tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    model = classifier()
    data = images_of([*pixels(6), pixels(1)[0] * torch.nan], targets=[0] * 7)
    with pytest.raises(ImageError, match=r"ward/6\.png"):
        write_adversarial(model, data, order(), tmp_path)
    assert (tmp_path / "shards" / "000000.csv").is_file()
