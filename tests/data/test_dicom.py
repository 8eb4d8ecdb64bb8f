"""A folder of DICOM slices is one volume in HU, in the order of their places, not of their names."""

import numpy as np
import pytest
import torch

from ommatid.data.volume_files import read_volume
from ommatid.errors import InputError

pydicom = pytest.importorskip("pydicom")


def write_slice(path, pixels, position, series="1.2.3", along=(1, 0, 0, 0, 1, 0), **tags):
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.Modality = series, "CT"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], 3.0
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(along)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype(np.int16).tobytes()
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    """Four slices of 2 rows and 3 columns, named against their order, beside a text."""
    for number in range(4):
        pixels = 100 * number + np.arange(6).reshape(2, 3)
        write_slice(tmp_path / f"{9 - number}.dcm", pixels, (10, 20, 5 + 3 * number))
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_slices_are_one_volume(series):
    volume = read_volume(series)
    assert volume.voxels.shape == (3, 2, 4)
    assert volume.spacing.tolist() == [0.75, 0.5, 3.0]
    assert not volume.voxels.is_floating_point()
    # DICOM's columns go to the left and rows to the back: the last of both comes first.
    expected = torch.tensor([[5, 2], [4, 1], [3, 0]]) - 1024
    for number in range(4):
        assert torch.equal(volume.voxels[..., number], (expected + 100 * number).int())
    # The first pixel of the first slice lies at (10, 20, 5) of DICOM, which is (-10, -20, 5) here.
    corner = volume.affine @ torch.tensor([2.0, 1, 0, 1], dtype=torch.double)
    torch.testing.assert_close(corner[:3], torch.tensor([-10.0, -20, 5], dtype=torch.double))


def test_labels_are_written_as_nifti_beside_a_series(series, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = read_volume(series)
    volume.save_like((volume.voxels > -800).int(), tmp_path / "labels.nii.gz")
    file = nibabel.load(tmp_path / "labels.nii.gz")
    assert file.shape == (3, 2, 4)
    np.testing.assert_allclose((file.affine @ [0, 0, 0, 1])[:3], [-10, -20, 5])


def test_faulty_series_are_told_in_one_sentence(series, tmp_path):
    pixels = np.zeros((2, 3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no DICOM slices, expected those of one series"):
        read_volume(tmp_path / "empty")
    write_slice(series / "z.dcm", pixels, (10, 20, 17), series="9.9")
    with pytest.raises(InputError, match="found slices of 2 series, expected those of one"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 20))
    with pytest.raises(InputError, match=r"found 6 mm between 6.dcm and z.dcm, expected 3 mm"):
        read_volume(series)
    write_slice(series / "z.dcm", np.zeros((2, 2)), (10, 20, 17))
    with pytest.raises(InputError, match=r"z.dcm: found 2 x 2 pixels, expected 3 x 2 as 6.dcm has"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), along=(0, 1, 0, 0, 0, 1))
    with pytest.raises(InputError, match=r"z.dcm: found a slice that is turned"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), PixelSpacing=None)
    with pytest.raises(InputError, match=r"z.dcm: found no PixelSpacing"):
        read_volume(series)
    write_slice(series / "z.dcm", pixels, (10, 20, 17), Rows=200)
    with pytest.raises(InputError, match=r"z.dcm: found 3 x 200 pixels"):
        read_volume(series)


def test_cut_slices_are_told_in_one_sentence(series):
    for path in series.glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match="found pixels that cannot be decoded"):
        read_volume(series)
