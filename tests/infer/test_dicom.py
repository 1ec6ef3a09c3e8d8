"""DICOM files: the pixels change and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from deblur_deploy.core.errors import ArtifactError
from deblur_deploy.infer.restore import Restorer, deblur

pydicom = pytest.importorskip("pydicom", reason="DICOM files need the extra `medical`")


@pytest.fixture
def scan(photo):
    """A CT slice: signed values with slope, intercept and window."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.RescaleSlope, dataset.RescaleIntercept = "A^B", 1.5, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    values = photo[:48, :64, 0].astype(np.int16) * 17 - 1000
    dataset.Rows, dataset.Columns, dataset.PixelData = *values.shape, values.tobytes()
    return dataset


def restore(*arguments):
    from deblur_deploy.infer.dicom import restore_dicom

    return restore_dicom(*arguments)


def test_only_the_pixel_data_changes(tmp_path, runner, scan):
    scan.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert restore(tmp_path / "a.dcm", tmp_path / "b.dcm", Restorer(runner)) == 1

    before, after = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    values = before.pixel_array
    span = float(values.max()) - values.min()
    expected = deblur(runner, ((values - float(values.min())) / span).astype(np.float32)) * span + values.min()
    assert after.pixel_array.dtype == np.int16
    assert np.abs(after.pixel_array - expected).max() <= 0.51
    assert (after.pixel_array != values).mean() > 0.5
    del before.PixelData, after.PixelData
    assert before == after
    assert before.file_meta == after.file_meta


def test_several_frames_and_an_even_one(tmp_path, runner, scan):
    frames = np.stack([np.full((48, 64), 7, np.int16)] * 2)
    scan.NumberOfFrames, scan.PixelData = 2, frames.tobytes()
    scan.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert restore(tmp_path / "a.dcm", tmp_path / "b.dcm", Restorer(runner)) == 2
    assert np.array_equal(pydicom.dcmread(tmp_path / "b.dcm").pixel_array, frames)


def test_what_is_no_gray_picture_of_16_bits_is_named(tmp_path, runner, scan):
    (tmp_path / "text.dcm").write_text("no scan")
    scan.save_as(tmp_path / "cut.dcm", enforce_file_format=True)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "cut.dcm").read_bytes()[:-500])
    scan.BitsAllocated = 8
    scan.save_as(tmp_path / "eight.dcm", enforce_file_format=True)
    for name, reason in (("text", "cannot be read as DICOM"), ("cut", "cannot be read"), ("eight", "with 8 bits")):
        with pytest.raises(ArtifactError, match=rf"{name}\.dcm.*{reason}"):
            restore(tmp_path / f"{name}.dcm", tmp_path / "out.dcm", Restorer(runner))
    assert not (tmp_path / "out.dcm").exists()


def test_a_file_whose_elements_are_broken_is_named(tmp_path, runner, scan):
    """Three planes under a gray name, no rows, an element that no file may have, and a damaged deflated part."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    scan.save_as(tmp_path / "good.dcm", enforce_file_format=True)
    content = (tmp_path / "good.dcm").read_bytes()
    samples, rows = (b"\x28\x00" + tag + b"\x00US\x02\x00" for tag in (b"\x02", b"\x10"))
    for name, old, new in (
        ("samples", samples + b"\x01", samples + b"\x03"),
        ("rows", rows + b"\x30", rows + b"\x00"),
        ("command", b"\x28\x00\x52\x10", b"\x00\x00\x52\x10"),
    ):
        assert old in content
        (tmp_path / f"{name}.dcm").write_bytes(content.replace(old, new))
    scan.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    scan.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)
    content = (tmp_path / "deflated.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # after the header, whose length is its first element
    (tmp_path / "deflated.dcm").write_bytes(content[:start] + b"\xff" + content[start + 1 :])

    for name in ("samples", "rows", "command", "deflated"):
        with pytest.raises(ArtifactError, match=rf"{name}\.dcm"):
            restore(tmp_path / f"{name}.dcm", tmp_path / "out.dcm", Restorer(runner))
    assert not (tmp_path / "out.dcm").exists()
