"""DICOM files: the pixels change and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from deblur_deploy import __version__
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.infer.restore import RestoreConfig, Restorer, deblur
from deblur_deploy.infer.settings import DicomConfig
from tests.infer.stand_ins import Identity

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

    frames, notes = restore_dicom(*arguments)
    assert all(isinstance(note, str) for note in notes)
    return frames


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
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
    assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert after.ImageType == ["DERIVED", "SECONDARY"]
    assert after.DerivationDescription == f"Deblurred by deblur-deploy {__version__}"
    for name in ("PixelData", "ImageType", "DerivationDescription", "SOPInstanceUID", "SourceImageSequence"):
        for dataset in (before, after):
            if name in dataset:
                delattr(dataset, name)
    del before.file_meta.MediaStorageSOPInstanceUID, after.file_meta.MediaStorageSOPInstanceUID
    assert before == after
    assert before.file_meta == after.file_meta


class Blur(Identity):
    """A network that mixes each pixel with its neighbours."""

    def infer(self, batch):
        wide = np.pad(batch, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = batch.shape[2:]
        parts = [wide[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        return np.mean(parts, axis=0, dtype=np.float32)


def restored(tmp_path, scan, network, config=DicomConfig()):  # noqa: B008
    scan.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    restorer = Restorer(network, RestoreConfig(count_process=False))
    from deblur_deploy.infer.dicom import restore_dicom

    _, notes = restore_dicom(tmp_path / "a.dcm", tmp_path / "b.dcm", restorer, config)
    return pydicom.dcmread(tmp_path / "b.dcm"), notes


def test_padding_is_left_alone_and_does_not_bleed(tmp_path, scan):
    values = np.full((48, 64), 1000, np.int16)
    values[:, 32:] = 1400
    padding = np.zeros(values.shape, bool)
    padding[:8], padding[20:24, 10:20] = True, True
    values[padding] = -32768
    scan.PixelPaddingValue, scan.PixelData = -32768, values.tobytes()
    scan["PixelPaddingValue"].VR = "SS"
    again = restored(tmp_path, scan, Identity())[0].pixel_array
    assert np.array_equal(again, values)
    again = restored(tmp_path, scan, Blur())[0].pixel_array
    assert np.array_equal(again[padding], values[padding])
    assert (again[~padding].min(), again[~padding].max()) == (1000, 1400)
    assert np.array_equal(again[:, :30], values[:, :30])
    assert not np.array_equal(again, values)


def test_overlay_bits_above_the_stored_ones_stay(tmp_path, scan):
    values = (np.arange(48 * 64).reshape(48, 64) % 4096).astype(np.uint16)
    overlay = (np.indices(values.shape).sum(axis=0) % 3 == 0).astype(np.uint16) << 12
    scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 12, 11, 0
    scan.PixelData = (values | overlay).tobytes()
    words = np.frombuffer(restored(tmp_path, scan, Identity())[0].PixelData, np.uint16).reshape(48, 64)
    assert np.array_equal(words, values | overlay)
    words = np.frombuffer(restored(tmp_path, scan, Blur())[0].PixelData, np.uint16).reshape(48, 64)
    assert np.array_equal(words & 0xF000, overlay)
    assert not np.array_equal(words & 0xFFF, values)


def test_a_file_without_pixels_is_named_as_that(tmp_path, scan):
    del scan.PixelData
    scan.Modality = "SR"
    with pytest.raises(ArtifactError, match=r"a\.dcm holds no pixels \(modality SR\)"):
        restored(tmp_path, scan, Identity())


def test_the_uid_is_kept_where_that_is_wanted_and_else_the_same_each_time(tmp_path, scan):
    kept, _ = restored(tmp_path, scan, Identity(), DicomConfig(keep_uid=True))
    assert kept.SOPInstanceUID == scan.SOPInstanceUID
    first, second = (restored(tmp_path, scan, Identity())[0].SOPInstanceUID for _ in range(2))
    assert first == second != scan.SOPInstanceUID


def test_compressed_pixels_are_unpacked_by_plugins(tmp_path, scan):
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    values = scan.pixel_array.copy()
    scan.compress(RLELossless, generate_instance_uid=False)
    again, notes = restored(tmp_path, scan, Identity())
    assert again.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(again.pixel_array, values)
    assert notes == ("it was compressed as RLE Lossless and is written uncompressed",)


def test_a_missing_plugin_is_named(tmp_path, scan, monkeypatch):
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000Lossless

    scan.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f"])
    scan["PixelData"].is_undefined_length = True
    scan.file_meta.TransferSyntaxUID = JPEG2000Lossless
    monkeypatch.setattr(type(get_decoder(JPEG2000Lossless)), "is_available", False)
    with pytest.raises(MissingDependencyError, match="JPEG 2000") as caught:
        restored(tmp_path, scan, Identity())
    assert "medical-codecs" in caught.value.hint


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
