"""One scan under two names is found however it was processed, two patients never are; splits that leak are refused."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from data.cases.case import renew_source, write_case
from data.cases.store import read_store
from data.common.errors import InputError
from data.duplicates import thumbnail as thumbnail_module
from data.duplicates.leaks import check_leaks, find_inseparable_pairs
from data.duplicates.match import IDENTICAL, PROCESSED
from data.duplicates.pairs import find_duplicates
from data.phantom.command import main as make_phantom
from data.scans.grid import Grid
from data.splits.split import Split
from tests.conftest import edit_manifest, tiny_scan

BASE = (5.0, 5.0, 5.0)
SHAPE = (44, 50, 70)  # 22 x 25 x 35 cm


def patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An elliptical body with random organs and a pancreas: image (int16 HU) and label (uint8)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    body = ((y - 25) / 23) ** 2 + ((x - 35) / 33) ** 2 < 1
    organs = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.5)
    image = np.where(body, np.where(organs > 0, 60, -100) + 1500 * organs, -1000)
    label = (((z - 24) / 6) ** 2 + ((y - 22) / 5) ** 2 + ((x - 33) / 12) ** 2 < 1).astype(np.uint8)
    return image.astype(np.int16), label


@pytest.fixture
def put(tmp_path):
    """``put(key, image, label)`` stores a case."""

    def store(key: str, image: np.ndarray, label: np.ndarray, spacing=BASE, patient="p", source=None) -> None:
        grid = Grid.plain(image.shape, spacing)
        centre, name = key.split("/")
        write_case(
            tmp_path, centre, name, image, label, patient=patient, spacing=spacing, grid=grid, source=source or {}
        )

    return store


def stored(store: Path) -> list:
    return [case for cases in read_store(store).values() for case in cases]


def leaks(split: Split, store: Path, allow: bool = False) -> list[str]:
    return check_leaks(split, find_inseparable_pairs([split], stored(store)), allow=allow)


def found(store: Path) -> dict[tuple[str, str], str]:
    return {(pair.first, pair.second): pair.kind for pair in find_duplicates(stored(store))}


def resampled(array: np.ndarray, spacing: tuple, order: int) -> np.ndarray:
    zoom = np.array(BASE) / spacing
    return ndimage.zoom(array.astype(float), zoom, order=order, grid_mode=True, mode="nearest").astype(array.dtype)


def test_different_patients_of_one_size_are_not_one_scan(put, tmp_path):
    for seed in range(8):
        put(f"a/{seed}", *patient(seed))
    assert found(tmp_path) == {}


def test_one_scan_is_found_however_it_was_processed(put, tmp_path):
    image, label = patient(0)
    noise = np.random.default_rng(1).normal(0, 20, SHAPE)
    put("a/0", image, label)
    put("a/1", *patient(1))
    put("b/copy", image, label * 0)
    put("b/noise", (image + noise).astype(np.int16), label)
    put("b/offset", image + 10, label)
    put("b/clipped", np.clip(image, -100, 240), label)
    put("b/fine", resampled(image, (2.5, 3, 3), 1), resampled(label, (2.5, 3, 3), 0), (2.5, 3, 3))
    edge = ((0, 0), (9, 9), (9, 9))
    put("b/padded", np.pad(image, edge, constant_values=-1024), np.pad(label, edge))
    put("b/cropped", image[10:34], label[10:34])
    put("b/cut", image[:, 5:45, 8:60], label[:, 5:45, 8:60])
    with_first = {second: kind for (first, second), kind in found(tmp_path).items() if first == "a/0"}
    others = ["b/clipped", "b/cropped", "b/cut", "b/fine", "b/noise", "b/offset", "b/padded"]
    assert with_first == {"b/copy": IDENTICAL, **dict.fromkeys(others, PROCESSED)}
    assert not any("a/1" in pair for pair in found(tmp_path))


def test_phantoms_of_one_scanner_are_not_one_scan(tmp_path):
    store = str(tmp_path / "store")
    assert make_phantom([store, "--cases", "2", "--centres", "north", "--prepared", "--workers", "1"]) == 0
    assert found(tmp_path / "store") == {}


def test_small_pieces_are_one_scan_only_if_all_voxels_are_identical(put, tmp_path):
    """Less than two litres of a body do not suffice to recognise a processed scan."""
    image, label = tiny_scan(0)
    put("a/0", image, label)
    put("a/1", image + 1, label)
    put("b/0", image, label)
    put("b/flat", image * 0, label)
    assert found(tmp_path) == {("a/0", "b/0"): IDENTICAL}


def test_thumbnails_are_stored_and_renewed_with_their_case(put, tmp_path):
    put("a/0", *patient(0))
    put("b/0", *patient(0))
    assert found(tmp_path) == {("a/0", "b/0"): IDENTICAL}
    (tmp_path / "a" / "0" / "image.npy").unlink()  # the second time only thumbnails are read
    assert found(tmp_path) == {("a/0", "b/0"): IDENTICAL}
    (stored_thumbnail,) = (tmp_path / "b" / "0").glob("thumbnail.*.npy")
    stored_thumbnail.write_bytes(stored_thumbnail.read_bytes()[:-100])
    assert found(tmp_path) == {("a/0", "b/0"): IDENTICAL}
    put("b/0", *patient(1), patient="another")
    assert found(tmp_path) == {}


def test_a_data_set_that_was_moved_keeps_its_thumbnails(put, tmp_path):
    put("a/0", *patient(0), source={"root": "/here", "image_sha256": "x"})
    assert found(tmp_path) == {}
    (case,) = stored(tmp_path)
    renew_source(case, {"root": "/there", "image_sha256": "x"})
    (tmp_path / "a" / "0" / "image.npy").unlink()
    assert found(tmp_path) == {}


def test_a_manifest_that_changed_outdates_the_thumbnail(put, tmp_path):
    put("a/0", *patient(0))
    put("a/1", *patient(1))
    assert found(tmp_path) == {}
    put("b/0", *patient(1), source={"image_sha256": "another"})
    for name in ("image.npy", "case.json"):
        shutil.copy(tmp_path / "b" / "0" / name, tmp_path / "a" / "0" / name)
    edit_manifest(tmp_path / "a" / "0", centre="a")
    assert ("a/0", "a/1") in found(tmp_path)
    assert len(list((tmp_path / "a" / "0").glob("thumbnail.*"))) == 1


def test_the_cases_of_a_read_only_store_are_compared_too(put, tmp_path, monkeypatch):
    put("a/0", *patient(0))
    put("b/0", *patient(0))

    def refuse(path):
        raise OSError(errno.EROFS, "read-only", str(path))

    monkeypatch.setattr(thumbnail_module, "replacing", refuse)
    assert found(tmp_path) == {("a/0", "b/0"): IDENTICAL}
    assert not list(tmp_path.rglob("thumbnail*"))


def test_a_split_that_leaks_is_refused_unless_allowed(put, tmp_path):
    for seed in range(5):
        for centre in "ab":
            put(f"{centre}/{seed}", *patient(seed), patient=f"{seed}")
    keys = [[f"{centre}/{seed}" for seed in range(5)] for centre in "ab"]
    leaking = Split("b", tuple(keys[0]), (), tuple(keys[1]))
    with pytest.raises(InputError) as caught:
        leaks(leaking, tmp_path)
    error = caught.value
    assert error.path == "split b" and "\n" not in str(error)
    assert error.problem.count("identical voxels") == 3 and "and 2 more pairs" in error.problem
    assert "a/0 (train) and b/0 (test)" in error.problem
    assert error.remedy.startswith("delete one case") and "--allow-duplicates" in error.remedy
    assert len(leaks(leaking, tmp_path, allow=True)) == 5
    within = Split("b", ("a/0", "b/0"), ("a/1", "b/1"), ("a/2",))
    assert leaks(within, tmp_path) == []
    with pytest.raises(InputError, match=r"a/0 \(train\) and b/0 \(validation\)"):
        leaks(Split("b", ("a/0",), ("b/0",), ("a/2",)), tmp_path)


def test_patient_identifiers_are_compared_only_within_one_set(put, tmp_path):
    one, other = ({"adapter": "panorama", "root": root} for root in ("/one", "/other"))
    put("a/0", *patient(0), patient="7", source=one)
    put("b/1", *patient(1), patient="7", source=one | {"adapter": "panorama-pancreas"})
    put("c/2", *patient(2), patient="7", source=other)
    put("d/3", *patient(3), patient="7")
    sides = Split("x", ("a/0",), ("c/2", "d/3"), ("b/1",))
    assert leaks(sides, tmp_path, allow=True) == ["a/0 (train) and b/1 (test): patient 7"]
    with pytest.raises(InputError, match="patient 7"):
        leaks(sides, tmp_path)
