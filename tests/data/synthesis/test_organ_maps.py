"""Label maps of organs: their codes, what is refused, and where their organs end up in a patient."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import InputError
from data.phantom.anatomy import AORTA, Tissue
from data.synthesis.organ_codes import OTHER, TABLES, find_table
from data.synthesis.organ_maps import list_maps, read_map
from data.synthesis.patient import render_patient
from data.synthesis.settings import Synthesis
from data.synthesis.torso import random_torso

SPACING = (5.0, 4.0, 4.0)
SHAPE = (60, 64, 80)
# Centre and radii (z, y, x) in mm of each organ of BTCV's table; x runs from the right to the left of the patient.
ELLIPSOIDS = {
    1: ((170, 165, 250), (42, 38, 24)),
    2: ((115, 178, 105), (45, 24, 24)),
    3: ((125, 178, 215), (45, 24, 24)),
    4: ((125, 95, 95), (20, 14, 13)),
    5: ((170, 120, 80), (65, 62, 48)),
    6: ((165, 95, 215), (50, 28, 32)),
    8: ((140, 125, 165), (18, 13, 48)),
}
AORTA_AT = (150.0, 170.0)  # (y, x)
PLAIN = {"intensity": 0.0, "shape": 0.0, "resolution": 0.0, "tumours": 0.0}


def made_up_labels(without: int = 0) -> np.ndarray:
    """Return ellipsoids in the place of organs, and a vertical aorta: codes (D, H, W)."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    labels = np.zeros(SHAPE, np.uint8)
    labels[(np.hypot(y - AORTA_AT[0], x - AORTA_AT[1]) < 10) & (z > 50)] = 7
    for code, (middle, radii) in ELLIPSOIDS.items():
        inside = sum(((p - m) / r) ** 2 for p, m, r in zip((z, y, x), middle, radii, strict=True)) < 1
        labels[inside & (labels == 0)] = code
    labels[labels == without] = 0
    return labels


def write_map(path: Path, labels: np.ndarray | None = None) -> Path:
    np.savez_compressed(path, labels=made_up_labels() if labels is None else labels, spacing=np.array(SPACING))
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("maps")
    write_map(folder / "patient.npz")
    return f"{folder}:btcv"


def grid_of_map() -> tuple[np.ndarray, ...]:
    """Return the voxel centres of the map in the frame of the body."""
    labels = made_up_labels()
    gland = np.argwhere(labels == 8).mean(axis=0)[0] * SPACING[0] + 0.5 * SPACING[0]
    origin = (gland, AORTA_AT[0] - AORTA[0], AORTA_AT[1] - AORTA[1])
    return tuple((np.arange(n) + 0.5) * s - o for n, s, o in zip(SHAPE, SPACING, origin, strict=True))


def test_every_organ_is_painted_where_the_map_has_it(maps: str) -> None:
    labels = made_up_labels()
    painted = random_torso(np.random.default_rng(4), Synthesis(**PLAIN, labels=maps)).paint(grid_of_map())
    materials = {
        1: painted == Tissue.SPLEEN,
        4: painted == Tissue.GALL,
        5: np.isin(painted, (Tissue.LIVER, Tissue.VEIN)),
        7: painted == Tissue.ARTERY,
        8: np.isin(painted, (Tissue.PARENCHYMA, Tissue.DUCT)),
    }
    kidney = np.isin(painted, (Tissue.CORTEX, Tissue.MEDULLA))
    right = np.arange(SHAPE[2]) * SPACING[2] < 160
    materials |= {2: kidney & right, 3: kidney & ~right}
    for code, found in materials.items():
        drawn = labels == code
        near = np.zeros_like(drawn)  # vessels and bowel elsewhere are of the same materials
        near[tuple(slice(i.min(), i.max() + 1) for i in drawn.nonzero())] = True
        dice = 2 * (found & drawn).sum() / ((found & near).sum() + drawn.sum())
        assert dice > 0.9, (code, dice)


def test_the_organs_lie_within_the_wall_and_below_the_lungs(maps: str) -> None:
    torso = random_torso(np.random.default_rng(4), Synthesis(**PLAIN, labels=maps))
    axes = grid_of_map()
    wall = torso.body.paint(axes)
    organs = np.isin(made_up_labels(), (1, 2, 3, 4, 5, 6, 8))
    outside = np.isin(wall, (Tissue.AIR, Tissue.SKIN, Tissue.FAT))
    assert (outside & organs).sum() < 0.002 * organs.sum()
    assert ((wall == Tissue.LUNG) & organs).sum() < 0.05 * organs.sum()
    assert (wall == Tissue.LUNG)[-2].sum() * np.prod(SPACING[1:]) > 300 * 100  # mm2, above the dome


def test_the_label_is_the_pancreas_of_the_map_and_a_seed_gives_the_same_voxels(maps: str) -> None:
    volume = float((made_up_labels() == 8).sum() * np.prod(SPACING))
    settings = Synthesis(**PLAIN, labels=maps)
    image, label = render_patient(3, settings, (4.0, 4.0, 4.0), (20.0, 20.0, 20.0))
    assert label.max() == 1 and (label > 0).sum() * 64 == pytest.approx(volume, rel=0.1)
    again = render_patient(3, settings, (4.0, 4.0, 4.0), (20.0, 20.0, 20.0))
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])


def test_tumours_lie_in_the_gland(maps: str) -> None:
    settings = Synthesis(**{**PLAIN, "tumours": 1.0}, labels=maps)
    _, label = render_patient(5, settings, (4.0, 4.0, 4.0), (20.0, 20.0, 20.0))
    tumour = np.argwhere(label == 2)
    gland = np.argwhere(label == 1)
    assert len(tumour) > 10
    assert np.linalg.norm(gland - tumour.mean(axis=0), axis=1).min() * 4 < 35


def test_an_organ_that_the_end_of_a_map_cuts_is_rounded_off(tmp_path: Path) -> None:
    write_map(tmp_path / "cut.npz", made_up_labels()[:34])  # ends within liver and spleen
    organ_map = read_map(tmp_path / "cut.npz", f"{tmp_path}:btcv")
    liver = organ_map.shapes["liver"].field()
    areas = (liver.values < 0).sum(axis=(1, 2))
    at_end = round((organ_map.high - liver.start[0]) / SPACING[0] - 0.5)
    assert 0.3 * areas[at_end] < areas[at_end + 2] < areas[at_end] and areas[-1] == 0


def test_nifti_is_read_in_the_orientation_of_the_patient(tmp_path: Path, maps: str) -> None:
    from data.scans.volume import write_lps

    write_lps(tmp_path / "patient.nii.gz", made_up_labels(), SPACING)
    found = read_map(tmp_path / "patient.nii.gz", f"{tmp_path}:btcv").shapes
    reference = read_map(list_maps(maps)[0], maps).shapes
    assert all(np.array_equal(found[name].tenths, reference[name].tenths) for name in reference)


def test_tables_have_the_documented_codes() -> None:
    assert [TABLES[name][code] for name, code in (("btcv", 8), ("btcv13", 11), ("amos", 10))] == ["pancreas"] * 3
    total = TABLES["totalsegmentator"]
    names = [total[code] for code in (7, 18, 20, 21, 52, 63, 64)]
    assert names[0] == "pancreas" and names[4:] == ["aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein"]
    assert len(total) == 117 and total[51] == total[117] == OTHER


def test_a_table_beside_the_maps_is_read(tmp_path: Path) -> None:
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({"1": "liver", "9": "pancreas", "4": "other"}))
    assert find_table(str(tmp_path))[1] == {1: "liver", 9: "pancreas", 4: OTHER}
    for content, words in (('{"1": "hepar"}', "'hepar'"), ("{1}", "cannot be read"), ('{"1": "liver"}', "pancreas")):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            find_table(str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "words"),
    [("{}", "nothing says what the codes"), ("{}:btvc", 'no table of codes "btvc"'), ("{}/no:btcv", "no such folder")],
)
def test_nothing_is_guessed_about_codes(tmp_path: Path, labels: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list_maps(labels.format(tmp_path))


def test_maps_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    labels = made_up_labels()
    strange = labels.copy()
    strange[0, 0, 0] = 14
    cases = {
        "codes 14": strange,
        "no pancreas": made_up_labels(without=8),
        "left and right": labels[..., ::-1],
        "not a label map": labels.astype(np.int16),
    }
    for number, (words, content) in enumerate(cases.items()):
        path = write_map(tmp_path / f"{number}.npz", content)
        with pytest.raises(InputError, match=words) as caught:
            read_map(path, f"{tmp_path}:btcv")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(write_map(tmp_path / "good.npz").read_bytes()[:400])
    with pytest.raises(InputError, match="not a label map"):
        read_map(damaged, f"{tmp_path}:btcv")
