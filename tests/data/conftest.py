"""Miniatures of published layouts, written by the tests that read them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Write an image below the test's folder: noise of a size, or the pixels given."""

    def write(name: str, pixels: np.ndarray | None = None, *, size: tuple[int, int] = (8, 8), colour: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = rng.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., Path]:
    """Write a flat 4 x 4 DICOM image of 8 bits below the test's folder."""

    def write(name: str, value: int, *, patient: str, maker: str) -> Path:
        file = pydicom.Dataset()
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
        file.PatientID, file.Manufacturer = patient, maker
        file.Rows = file.Columns = 4
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
        file.PixelData = bytes([value] * 16)
        file["PixelData"].VR = "OB"
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file.save_as(path, enforce_file_format=True)
        return path

    return write
