"""A DICOM folder has to be one complete, evenly spaced stack of slices; anything else is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.dicom import summarise_series
from data.scans.volume import read_image
from tests.conftest import NOISE, refused


def write_series(
    folder: Path, array: np.ndarray, series: str = "1.2.3.4", heights=None, tilt: float = 0.0
) -> list[Path]:
    """Write CT slices as a scanner would, and return their paths; the names are in another order than the positions.

    Args:
        folder: Folder to write to.
        array: Voxels (D, H, W).
        series: Identifier of the series.
        heights: z position of each slice in mm; 2.5 mm apart if None.
        tilt: Shift of each slice against the one below in mm, as with a tilted gantry.
    """
    folder.mkdir(exist_ok=True)
    heights = np.arange(len(array)) * 2.5 if heights is None else heights
    writer, paths = sitk.ImageFileWriter(), []
    writer.KeepOriginalImageUIDOn()
    for index, (plane, height) in enumerate(zip(array, heights, strict=True)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.8, 0.8, 2.5))
        tags = {"0008|0060": "CT", "0020|000e": series, "0020|000d": "1.2.3", "0008|0018": f"{series}.{index}"}
        tags |= {"0020|0037": "1\\0\\0\\0\\1\\0", "0020|0032": f"-10\\{tilt * index - 20}\\{height}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        paths.append(folder / f"IM{(index * 7) % 97:03d}_{series}.dcm")
        writer.SetFileName(str(paths[-1]))
        writer.Execute(image)
    return paths


def test_a_dicom_folder_is_read_as_one_volume(tmp_path):
    write_series(tmp_path, NOISE)
    (tmp_path / "LICENSE").write_text("free")
    volume = read_image(tmp_path)
    assert np.array_equal(volume.array, NOISE) and volume.spacing == (2.5, 0.8, 0.8)
    assert np.allclose(volume.origin, (-10, -20, 0))


def test_a_damaged_slice_is_refused_and_not_left_out(tmp_path):
    paths = write_series(tmp_path, NOISE)
    content = paths[4].read_bytes()
    for length in (len(content) - 2, len(content) // 2, 300, 140):
        paths[4].write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_image(tmp_path)
        assert caught.value.path == paths[4] and "again" in caught.value.remedy
    paths[4].write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_image(tmp_path)
    assert caught.value.path == paths[4] and "empty" in caught.value.problem


def test_a_dicom_folder_that_is_not_one_even_stack_is_refused(tmp_path):
    paths = write_series(tmp_path / "gap", NOISE)
    paths[4].unlink()
    refused(tmp_path / "gap", "evenly", "5.000 mm", remedy="missing")
    shutil.copy(write_series(tmp_path / "double", NOISE)[3], tmp_path / "double" / "copy.dcm")
    refused(tmp_path / "double", "copy.dcm are the same slice", remedy="doubled")
    write_series(tmp_path / "two", NOISE)
    write_series(tmp_path / "two", NOISE, series="1.2.3.5")
    refused(tmp_path / "two", "2 CT series", "9 slices of 2.5 mm, ...1.2.3.5", remedy="--series .3.4")
    write_series(tmp_path / "tilted", NOISE, tilt=0.5)
    refused(tmp_path / "tilted", "tilted")
    write_series(tmp_path / "sizes", NOISE)
    write_series(tmp_path / "sizes", NOISE[:1, :8], heights=[22.5])[0].rename(tmp_path / "sizes" / "last.dcm")
    refused(tmp_path / "sizes", "size")
    write_series(tmp_path / "rounded", NOISE, heights=np.round(np.arange(9) * 0.6667, 2))
    assert read_image(tmp_path / "rounded").array.shape == NOISE.shape


def test_two_headers_give_the_extent_of_a_series(tmp_path):
    write_series(tmp_path, NOISE)
    summary = summarise_series(tmp_path)
    assert summary.slices == len(NOISE) and summary.first_file == min(tmp_path.iterdir())


def test_meta_information_for_which_gdcm_would_reserve_a_gigabyte_is_refused(tmp_path):
    paths = write_series(tmp_path, NOISE)
    content = paths[4].read_bytes()
    for before, after in ((b"\x02\x00\x13\x00SH", b"\x02\x00\x13\x00SI"), (b"DICM\x02\x00", b"DICM\x03\x00")):
        assert content.count(before) == 1
        paths[4].write_bytes(content.replace(before, after))
        refused(tmp_path, "truncated, damaged or incomplete", remedy="again")
