"""Probability maps are bytes that every reader scales to 0 to 1, on the grid of the scan's file."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.boxes import Box
from data.scans.grid import Grid, Part
from data.scans.probability import STEPS, write_probability
from tests.conftest import affine_of


def grid_of(tmp_path, part: Part | None = None) -> Grid:
    """The grid of a turned and oblique file of 9 x 8 x 7 voxels."""
    nib.save(
        nib.Nifti1Image(np.zeros((9, 8, 7), np.int16), affine_of((1, 0, 2), (-1, 1, -1), (4, -6, 9))),
        tmp_path / "s.nii",
    )
    image = sitk.ReadImage(str(tmp_path / "s.nii"))
    grid = Grid.of(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Grid(**{**grid.__dict__, "part": part})


@pytest.mark.parametrize(
    "read", [lambda p: nib.load(p).get_fdata().T, lambda p: sitk.GetArrayFromImage(sitk.ReadImage(p))]
)
def test_readers_see_the_probabilities_in_their_place(tmp_path, read):
    grid = grid_of(tmp_path)
    box = Box((1, 2, 0), (4, 6, 5))
    values = np.random.default_rng(0).random(box.shape).astype(np.float32)
    write_probability(tmp_path / "p.nii.gz", values, box, grid)
    found = grid.to_lps(read(str(tmp_path / "p.nii.gz")))
    assert np.abs(found[box.slices] - values).max() <= 0.5 / STEPS + 1e-6
    found[box.slices] = 0
    assert not found.any()
    written, scan = nib.load(tmp_path / "p.nii.gz"), nib.load(tmp_path / "s.nii")
    assert written.get_data_dtype() == np.uint8 and np.allclose(written.affine, scan.affine, atol=1e-4)


def test_a_resampled_part_is_written_at_the_voxels_of_a_mask(tmp_path):
    """The voxels above a threshold are those of the mask that is written beside it."""
    part = Part((1, 1, 2), (7, 8, 8), (4, 9, 12))
    grid = grid_of(tmp_path, part)
    values = np.random.default_rng(1).random(part.shape).astype(np.float32)
    write_probability(tmp_path / "p.nii.gz", values, Box((0, 0, 0), part.shape), grid)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.nii.gz")))
    away = np.abs(values - 0.5) > 1 / STEPS
    assert np.array_equal(
        (found > 0.5) & (grid.to_file(away.astype(np.uint8)) > 0), grid.to_file((values > 0.5) & away)
    )


def test_a_stage_that_looked_nowhere_gives_zeros_and_a_failure_leaves_nothing(tmp_path):
    grid, nowhere = grid_of(tmp_path), Box((0, 0, 0), (0, 0, 0))
    write_probability(tmp_path / "p.nii.gz", np.zeros((0, 0, 0), np.float32), nowhere, grid)
    assert not nib.load(tmp_path / "p.nii.gz").get_fdata().any()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        write_probability(tmp_path / "file" / "p.nii.gz", np.zeros((0, 0, 0), np.float32), nowhere, grid)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "p.nii.gz", "s.nii"]
