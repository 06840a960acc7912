"""Labels that cannot be what their codes say, of one case and of a centre."""

import numpy as np
import pytest

from data.sources.plausible import Volumes, find_centre_fault, find_label_fault
from tests.conftest import SPACING, tiny_scan

MM = (5.0, 5.0, 5.0)  # 8 voxels have 1 ml


def ball(radius: float, centre: float = 30, n: int = 60) -> np.ndarray:
    return sum((axis - c) ** 2 for axis, c in zip(np.indices((n,) * 3), (centre, 30, 30), strict=True)) < radius**2


def fault(label: np.ndarray, hu: int = 60, spacing=MM) -> str:
    found = find_label_fault(np.full(label.shape, hu, np.int16), label.astype(np.uint8), spacing)
    assert found is None or "--accept-labels" in found.remedy
    return found.problem if found else ""


@pytest.mark.parametrize("index", range(4))
def test_plausible_labels_have_no_fault(index):
    assert find_label_fault(*tiny_scan(index), SPACING) is None


@pytest.mark.parametrize("code, small, large, words", [(1, 8, 12, "its pancreas has"), (2, 13, 16, "its tumour has")])
def test_organs_of_impossible_volume_are_refused(code, small, large, words):
    for radius, found in ((small, False), (large, True)):
        label = np.where(ball(radius), code, 0)
        label[30, 30, 50:55] = 3 - code  # so that a tumour has a pancreas beside it
        label[30, 30, 30 + radius - 1 : 51] = 3 - code
        assert fault(label).startswith(words) == found


def test_a_label_in_the_air_is_refused():
    label = ball(5)
    assert "lies in air" in fault(label, hu=-1000) and not fault(label, hu=-200)


def test_a_tumour_far_from_the_pancreas_is_refused_and_one_beside_it_is_not():
    for centre in (33, 36, 39):  # in the pancreas, at its edge, 15 mm beside it
        assert not fault(np.where(ball(2, centre), 2, ball(6, 30)))
    assert fault(np.where(ball(2, 45), 2, ball(6, 30))) == "its tumour lies 45 mm from its pancreas"
    assert "no pancreas" in fault(np.where(ball(2), 2, 0))


def test_a_pancreas_inside_its_tumour_is_refused_and_one_stretched_over_it_is_not():
    assert "look exchanged" in fault(np.where(ball(3, 32), 1, np.where(ball(6), 2, 0)))
    assert not fault(np.where(ball(3, 32), 2, np.where(ball(6), 1, 0)))
    shell = ball(8) & ~ball(7) & (np.indices((60,) * 3)[0] > 33)
    assert not fault(np.where(shell, 1, np.where(ball(7), 2, 0)))  # a cyst under a thin gland


def test_no_label_at_all_is_no_fault():
    assert not fault(np.zeros((5, 5, 5)))


def test_a_centre_is_judged_by_the_median_of_its_cases():
    usual = [Volumes(80, 6), Volumes(60, 0), Volumes(75, 9), Volumes(20, 130), Volumes(0, 0)]
    assert find_centre_fault(usual) is None and find_centre_fault([]) is None
    swapped = [Volumes(case.tumour, case.pancreas) for case in usual]
    found = find_centre_fault(swapped)
    assert found and "look exchanged: in the median of 3 cases the tumour is 8.3 times" in found.problem
    assert find_centre_fault(swapped[:2]) is None  # too few cases
    spleens = find_centre_fault([Volumes(210, 0), Volumes(180, 0), Volumes(120, 0)])
    assert spleens and "the median pancreas of 3 cases has 180 ml" in spleens.problem


def test_the_label_maps_of_real_patients_are_plausible_and_exchanged_ones_are_not(shared):
    """136 label maps of four groups; the ratio of exchanged codes is found in every group with tumours."""
    for group in ("msd", "siemens", "toshiba", "nih"):
        volumes, found = [], []
        for path in sorted((shared / "anatomy" / group).glob("*.npz"))[:12]:
            with np.load(path) as file:
                codes, spacing = file["labels"], tuple(file["spacing"])
            label = np.select([np.isin(codes, [4, 5]), codes == 1], [1, 2], 0).astype(np.uint8)
            found.append(find_label_fault(np.full(label.shape, 60, np.int16), label, spacing))
            voxel_ml = float(np.prod(spacing)) / 1000
            volumes.append(Volumes((label == 1).sum() * voxel_ml, (label == 2).sum() * voxel_ml))
        assert not any(found) and find_centre_fault(volumes) is None
        exchanged = find_centre_fault([Volumes(v.tumour, v.pancreas) for v in volumes])
        assert (exchanged is not None) == (group != "nih")
