"""The store: what is written comes back, atomically, and stores of earlier versions stay valid."""

import contextlib
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.cases.case import Case, read_case, renew_source, restore_earlier, write_case
from data.cases.preparation import Preparation
from data.cases.store import digest, read_store
from data.common.errors import InputError
from data.scans.boxes import Box
from data.scans.grid import Grid, Part
from tests.conftest import edit_manifest

VERSION_1 = {
    "format": 1,
    "orientation": "LPS",
    "image": "int16 HU",
    "label": "uint8 0 background, 1 pancreas, 2 tumour",
}
MANIFEST_KEYS = [
    "centre",
    "name",
    "patient",
    "shape",
    "spacing",
    "pancreas_box",
    "tumour_box",
    "grid",
    "source",
    "preparation",
    "preparation_hash",
    "files",
]
SHAPE, SPACING = (4, 5, 6), (2.5, 0.8, 0.8)
# A file whose axes run along z, x and y of the patient (the columns of its direction), 10 x 8 x 7 voxels in LPS.
TURNED = Grid.of((10, 7, 8), (2.5, 0.6, 0.4), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0))


def small_label() -> np.ndarray:
    """A pancreas of 12 voxels and a tumour of one."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:4, 3:6] = 1
    label[2, 3, 5] = 2
    return label


def write(store: Path, centre: str = "a", name: str = "one", value: int = 0, part: Part | None = None, **more) -> Path:
    grid = replace(TURNED, part=part) if part else Grid.plain(SHAPE, SPACING)
    facts = {
        "patient": "p",
        "spacing": grid.prepared_grid().lps_frame()[0],
        "grid": grid,
        "source": {"x": 1},
    }
    return write_case(store, centre, name, np.full(SHAPE, value, np.int16), small_label(), **facts, **more)


def test_a_case_comes_back_as_written(tmp_path):
    case = read_case(write(tmp_path, value=-1000))
    assert (case.key, case.patient, case.shape, case.spacing) == ("a/one", "p", SHAPE, SPACING)
    assert case.pancreas_box == Box((1, 2, 3), (3, 4, 6)) and case.tumour_box == Box((2, 3, 5), (3, 4, 6))
    assert isinstance(case.image(), np.memmap) and case.image().dtype == np.int16 and (case.image() == -1000).all()
    assert int(case.label().sum()) == 13


def test_writing_again_replaces_and_leaves_nothing_behind(tmp_path):
    write(tmp_path, value=1)
    folder = write(tmp_path, value=2)
    assert (read_case(folder).image() == 2).all()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["one"]


def test_the_store_lists_only_complete_cases(tmp_path):
    for centre, name in (("b", "z"), ("a", "two"), ("a", "one")):
        write(tmp_path, centre, name)
    (tmp_path / "a" / ".three.99.unfinished").mkdir()
    centres = read_store(tmp_path)
    assert [case.key for cases in centres.values() for case in cases] == ["a/one", "a/two", "b/z"]


def test_an_empty_store_says_how_to_fill_it(tmp_path):
    with pytest.raises(InputError) as error:
        read_store(tmp_path)
    assert (error.value.path, error.value.problem) == (tmp_path, "no centre is prepared here")
    assert error.value.command == "python -m data.prepare --help"


def test_a_case_prepared_in_another_way_says_how_to_renew_it(tmp_path):
    path = write(tmp_path) / "case.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "preparation_hash": "0"}))
    with pytest.raises(InputError, match="prepared with settings that this version cannot read") as error:
        read_case(path.parent)
    assert error.value.path == path
    assert (
        error.value.remedy
        == f"delete {path.parent} and prepare its centre again with the options that it was prepared with"
    )


def test_a_store_with_cases_prepared_in_two_ways_is_refused(tmp_path):
    ways = Preparation(crop="body"), Preparation(crop="body", spacing=(1.0, 0.8, 0.8))
    for name, way in zip(("one", "two"), ways, strict=True):
        write(tmp_path, name=name, preparation=way)
        assert read_case(tmp_path / "a" / name).preparation == way
    with pytest.raises(InputError, match=r"a/one with --crop body, a/two with --crop body --spacing 1 0\.8 0\.8\)"):
        read_store(tmp_path)
    write(tmp_path, name="one", preparation=ways[1])
    assert len(read_store(tmp_path)["a"]) == 2


def test_stores_of_version_1_stay_valid(tmp_path):
    """Hash, manifest and digest of a case that is neither cropped nor resampled are those that version 1 wrote."""
    assert Preparation().hash == hashlib.sha256(json.dumps(VERSION_1, sort_keys=True).encode()).hexdigest()[:16]
    path = write(tmp_path, scan_label=small_label()) / "case.json"
    manifest = json.loads(path.read_text())
    assert list(manifest) == [*MANIFEST_KEYS, "checksum"] and manifest["preparation"] == VERSION_1
    text = json.dumps({key: manifest[key] for key in MANIFEST_KEYS if key != "files"}, indent=1)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "bce7f5fb29ccf7a2"
    assert digest(read_store(tmp_path)["a"]) == "d0ac81348640732b"
    path.write_text(text)
    assert digest(read_store(tmp_path)["a"]) == "d0ac81348640732b"


CROPPED = Part((2, 3, 1), (6, 8, 7), SHAPE)  # 4 x 5 x 6 voxels of the scan, kept as they are
RESAMPLED = Part((1, 2, 0), (9, 7, 6), SHAPE)  # 8 x 5 x 6 voxels of the scan, every second slice left out


def write_resampled(store: Path) -> tuple[Case, np.ndarray]:
    """A case of which the scan's own label has twice as many slices, with detail that the resampled one lacks."""
    fine = small_label().repeat(2, axis=0)
    fine[3, 2, 3] = 2
    return read_case(write(store, part=RESAMPLED, scan_label=fine)), fine


def test_a_resampled_case_keeps_the_label_on_the_voxels_of_the_scan(tmp_path):
    case, fine = write_resampled(tmp_path)
    assert case.has_scan_label and case.scan_label().dtype == np.uint8
    assert case.scan_label().shape == (8, 5, 6) and np.array_equal(case.scan_label(), fine)
    assert case.shape == SHAPE and np.array_equal(case.label(), small_label())


@pytest.mark.parametrize("part", [None, CROPPED])
def test_without_resampling_the_label_on_the_voxels_of_the_scan_is_the_label(part, tmp_path):
    case = read_case(write(tmp_path, part=part, scan_label=small_label()))
    assert case.has_scan_label and not (case.folder / "scan_label.npz").exists()
    assert np.array_equal(case.scan_label(), small_label())


def test_the_spacing_of_the_scan_is_given_in_lps(tmp_path):
    case, _ = write_resampled(tmp_path)
    assert case.scan_spacing == (2.5, 0.4, 0.6) != case.spacing


@pytest.mark.parametrize("shape", [SHAPE, (8, 5, 5)])
def test_a_label_of_other_voxels_than_those_of_the_part_is_refused(shape, tmp_path):
    with pytest.raises(ValueError, match=r"for a part of \(8, 5, 6\) voxels"):
        write(tmp_path, part=RESAMPLED, scan_label=np.zeros(shape, np.uint8))


def test_a_resampled_case_of_an_earlier_version_says_how_to_prepare_it_again(tmp_path):
    case = read_case(write(tmp_path, part=RESAMPLED))
    assert not case.has_scan_label and np.array_equal(case.label(), small_label())
    with pytest.raises(InputError, match="an earlier version prepared this case") as error:
        case.scan_label()
    assert error.value.path == case.folder / "scan_label.npz"
    assert error.value.remedy == "prepare this centre again with the options that it was prepared with"


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "other shape", "other key"])
def test_a_damaged_label_on_the_voxels_of_the_scan_is_named(damage, tmp_path):
    case, fine = write_resampled(tmp_path)
    path = case.folder / "scan_label.npz"
    if damage == "other shape":
        np.savez_compressed(path, label=fine[1:])
    elif damage == "other key":
        np.savez_compressed(path, mask=fine)
    else:
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"x" * 300}[damage])
    with pytest.raises(InputError) as error:
        case.scan_label()
    assert error.value.path == path and error.value.remedy.startswith(f"delete {case.folder} and prepare")


@pytest.mark.parametrize("name", ["image", "label"])
def test_a_missing_or_damaged_array_is_named(name, tmp_path):
    case = read_case(write(tmp_path))
    path = case.folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged") as error:
        getattr(case, name)()
    assert error.value.path == path
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        getattr(case, name)()


class Killed(BaseException):
    """Raised where a test pretends that the process is killed."""


@pytest.mark.parametrize("step", range(1, 10))
def test_a_process_killed_at_any_step_leaves_a_complete_case_or_none(tmp_path, monkeypatch, step):
    """Writing over an earlier version may leave that version, the new one or none, but never an incomplete case."""
    fine = small_label().repeat(2, axis=0)
    write(tmp_path, value=1, part=RESAMPLED, scan_label=fine)
    calls = []

    def dying(function, after):
        def call(*args, **kwargs):
            calls.append(function)
            if len(calls) == step and not after:
                raise Killed
            result = function(*args, **kwargs)
            if len(calls) == step:
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("save", "savez_compressed"):
            patch.setattr(np, name, dying(getattr(np, name), after=True))
        for name in ("mkdir", "write_text", "rename"):
            patch.setattr(Path, name, dying(getattr(Path, name), after=False))
        with contextlib.suppress(Killed):
            write(tmp_path, value=2, part=RESAMPLED, scan_label=fine)
        assert len(calls) == min(step, 7)
    for path in tmp_path.glob("[!.]*/[!.]*"):
        case = read_case(path)
        assert int(case.image()[0, 0, 0]) in (1, 2) and case.image().shape == case.label().shape == case.shape
        assert np.array_equal(case.scan_label(), fine)
    write(tmp_path, value=3)
    assert (read_case(tmp_path / "a" / "one").image() == 3).all()


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    path = write(tmp_path) / "case.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a readable manifest") as error:
        read_store(tmp_path)
    assert error.value.path == path


def change_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["image.npy", "label.npy"])
def test_a_file_that_changed_since_it_was_prepared_is_named(tmp_path, name):
    case = read_case(write(tmp_path))
    read = {"image.npy": case.image, "label.npy": case.label}[name]
    read()
    change_one_byte(case.folder / name)
    with pytest.raises(InputError, match=f"{name}: damaged: its content has changed"):
        read()


def test_a_damaged_label_of_the_scan_is_named(tmp_path):
    part = Part((0, 0, 0), SHAPE, (2, 5, 6))
    label = small_label()
    folder = write_case(
        tmp_path,
        "a",
        "one",
        np.zeros(part.shape, np.int16),
        label[::2],
        patient="p",
        spacing=(5.0, 0.8, 0.8),
        grid=replace(Grid.plain(SHAPE, SPACING), part=part),
        source={},
        scan_label=label,
    )
    assert np.array_equal(read_case(folder).scan_label(), label)
    change_one_byte(folder / "scan_label.npz")
    with pytest.raises(InputError, match=r"scan_label.npz: damaged"):
        read_case(folder).scan_label()


def test_a_file_is_hashed_once_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    case, read = read_case(write(tmp_path)), []
    monkeypatch.setattr("data.cases.case.sha256_of", lambda path: read.append(path) or case.files[path.name])
    for _ in range(3):
        case.image()
    assert len(read) == 1


def test_cases_of_earlier_versions_without_hashes_are_read_and_have_the_same_digest(tmp_path):
    folder = write(tmp_path)
    before = digest([read_case(folder)])
    manifest = json.loads((folder / "case.json").read_text())
    del manifest["files"], manifest["checksum"]
    (folder / "case.json").write_text(json.dumps(manifest))
    case = read_case(folder)
    assert digest([case]) == before
    change_one_byte(folder / "image.npy")
    assert case.image().shape == SHAPE


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"spacing": [2.5, 0.8, 0.9]}, "its voxels have (2.5, 0.8, 0.9) mm, those of its grid"),
        ({"spacing": [2.5, 0.8, float("nan")]}, "its voxels have"),
        ({"spacing": [2.5, 0.8]}, "not enough values"),
        ({"shape": [4, 5, 7]}, "its shape is (4, 5, 7), that of its grid (4, 5, 6)"),
        ({"pancreas_box": [[1, 2, 3], [3, 4, 9]]}, "the boxes around its labels do not fit"),
        ({"pancreas_box": None}, "the boxes around its labels do not fit"),
        ({"tumour_box": [[0, 3, 5], [3, 4, 6]]}, "the boxes around its labels do not fit"),
        ({"name": "two"}, "it is the manifest of a/two"),
        ({"centre": "b"}, "it is the manifest of b/one"),
        ({"source": None}, "not a readable manifest"),
        ({"grid": {}}, "not a readable manifest"),
    ],
)
def test_a_manifest_of_an_earlier_version_has_to_agree_with_itself(tmp_path, fields, problem):
    path = write(tmp_path) / "case.json"
    manifest = json.loads(path.read_text()) | fields
    del manifest["checksum"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=re.escape(problem)) as error:
        read_case(path.parent)
    assert error.value.path == path


def test_a_changed_digit_in_a_manifest_is_noticed_and_a_renewed_source_is_not(tmp_path):
    path = write(tmp_path) / "case.json"
    renew_source(read_case(path.parent), {"x": 2})
    assert read_case(path.parent).source == {"x": 2}
    text = path.read_text()
    path.write_text(text.replace('"patient": "p"', '"patient": "q"'))
    with pytest.raises(InputError, match="its checksum does not fit, so it was damaged or edited"):
        read_case(path.parent)


@pytest.mark.parametrize("before, after", [(b"'<i2'", b"'>i2'"), (b"(4, 5, 6)", b"(2, 5, 6)"), (b"False", b"True ")])
def test_an_array_of_another_type_shape_or_order_is_named_also_without_its_hash(tmp_path, before, after):
    folder = write(tmp_path)
    edit_manifest(folder, files={})
    path = folder / "image.npy"
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    with pytest.raises(InputError, match="damaged: it holds") as error:
        read_case(folder).image()
    assert error.value.path == path


def test_a_case_that_was_being_replaced_gets_its_name_back(tmp_path):
    folder = write(tmp_path, value=1)
    earlier = folder.with_name(".one.0a1b2c3d.earlier.unfinished")
    folder.rename(earlier)  # as a kill between the two steps of a replacement leaves it
    restore_earlier(earlier)
    assert read_case(folder).image()[0, 0, 0] == 1
    write(tmp_path, name="two")
    restore_earlier(tmp_path / "a" / ".two.0a1b2c3d.earlier.unfinished")  # there is none
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["one", "two"]
