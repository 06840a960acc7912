"""Stacks of few slices of real patients: how they are shown to a network, and how it is scored on them."""

import numpy as np
import pytest

from data.common.errors import InputError
from engine.report.tables import read_case_table
from experiments import real_crops, real_rois
from experiments.stacks import LEAST_SLICES, make_stack, rank
from tests.tiny_cascade import write_runs


def test_a_rank_is_the_share_of_pairs_in_order():
    values = np.array([1.0, 2.0, 2.0, 3.0])
    higher, lower = np.array([False, True, False, True]), np.array([True, False, True, False])
    assert rank(values, higher, lower) == (1 + 0.5 + 1 + 1) / 4
    assert np.isnan(rank(values, higher, np.zeros(4, bool)))


def test_a_stack_is_padded_with_its_outermost_slices_which_are_not_shown():
    rng = np.random.default_rng(0)
    hu = rng.normal(50, 10, (4, 12, 10))
    mask = np.zeros(hu.shape, bool)
    mask[1:3, 3:9, 2:8] = True
    stack = make_stack(hu, {"gland": mask}, (5.0, 1.0, 1.0), (2.5, 1.0, 1.0))
    assert stack.image.shape == (LEAST_SLICES, 12, 10) and stack.shown.shape == stack.masks["gland"].shape == (
        8,
        12,
        10,
    )
    np.testing.assert_array_equal(stack.image[0], stack.shown[0])
    volume = np.count_nonzero(stack.masks["gland"]) * 2.5
    assert volume == pytest.approx(np.count_nonzero(mask) * 5.0, rel=0.15)


def write_crops(path, shift=0):
    """Crops of three slices, of which the last lies above a gap, with the second one beside the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((6, 8), 128, np.uint8)
    image[0] = 255  # the foremost row
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:6] = 1
    origins = np.array([[20, 30], [22 + shift, 31], [20, 30]])
    slices = {f"{kind}_{i}": array for i in range(3) for kind, array in (("image", image), ("mask", mask))}
    spacing = {"spacing_xyz_mm": np.array([1.0, 1.0, 2.0]), "shape_xyz": np.array([64, 64, 9])}
    np.savez(path, z=np.array([3, 4, 7]), origin_xy_voxel=origins, **slices, **spacing)
    return path


def test_crops_lie_where_they_were_cut_and_gaps_do_not_count(tmp_path):
    crops = real_crops.read_crops(write_crops(tmp_path / "a.npz"))
    assert crops.hu.shape == (5, 7, 10) and crops.spacing == (2.0, 1.0, 1.0)
    assert np.flatnonzero(crops.seen.any(axis=(1, 2))).tolist() == [0, 1, 4]
    # The second crop begins a voxel further in front: y counts towards the front, and row 0 is in front.
    assert crops.hu[1, 0, 2:].tolist() == [250] * 8 and crops.hu[0, 0, 0] == -100
    assert crops.hu[0, 1, :8].tolist() == [250] * 8 and crops.gland[0, 2:5, 2:6].all()
    np.testing.assert_array_equal(crops.hu[3], crops.hu[4])
    with pytest.raises(InputError, match="does not hold crops"):
        (tmp_path / "b.npz").write_bytes(b"no archive")
        real_crops.read_crops(tmp_path / "b.npz")


def test_the_commands_judge_networks_of_synthesis(tmp_path, capsys):
    runs = str(write_runs(tmp_path / "runs", "synthetic"))
    for hospital in ("north", "south"):
        write_crops(tmp_path / "crops" / hospital / "one.npz")
    assert real_crops.main([str(tmp_path / "crops"), str(tmp_path / "out"), "--path", runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["north", "1"], ["south", "1"]]
    rows = (tmp_path / "out" / "cases.csv").read_text()
    assert "rank_soft" in rows and (tmp_path / "out" / "crops.png").stat().st_size > 1000

    label = np.zeros((4, 24, 24), np.uint8)
    label[:, 4:20, 4:20], label[:, 8:14, 8:14], label[:, :2] = 4, 1, 255
    hu = np.where(label == 1, 40, 90).astype(np.int16)
    (tmp_path / "rois").mkdir()
    np.savez(tmp_path / "rois" / "one.npz", hu=hu, label=label, spacing_xyz=np.array([1.0, 1.0, 3.0]))
    options = [str(tmp_path / "rois"), str(tmp_path / "rois_out"), "--path", runs]
    assert real_rois.main([*options, "--spacing", "3", "1", "1"]) == 0
    row = read_case_table(tmp_path / "rois_out" / "cases.csv")[0]
    assert row["rank_dark"] == 1 and 0 <= row["rank_gland"] <= 1
    assert "lesion ranked above the gland around it" in (tmp_path / "rois_out" / "summary.txt").read_text()
