"""Libraries of painted torsos: what their files hold, what is refused, and the patients that are drawn from them."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import InputError
from data.phantom.anatomy import Tissue
from data.phantom.command import main
from data.synthesis import patient, torso_library
from data.synthesis.materials import GLAND
from data.synthesis.patient import render_patient
from data.synthesis.settings import Synthesis
from data.synthesis.torso import HIGH_MM, Torso, random_torso
from data.synthesis.torso_library import (
    FINE_MM,
    WHOLE_MM,
    Block,
    PaintedTorso,
    check_library,
    check_source,
    draw_torso,
    find_torsos,
    list_torsos,
    read_torso,
    write_torso,
)
from tests.data.synthesis.test_organ_maps import write_map

MARGIN_MM = (20.0, 20.0, 20.0)
COMMAND = ["--abdomen", "--torsos", "--cases", "3", "--seed", "5", "--workers", "1", "--quiet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of three torsos, as a user makes it; the second and the third have a tumour."""
    folder = tmp_path_factory.mktemp("library")
    assert main([str(folder), *COMMAND]) == 0
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the library that a test may damage."""
    yield shutil.copytree(made, tmp_path / "library")
    list_torsos.cache_clear()
    check_library.cache_clear()


def pair_of(seed: int) -> tuple[Torso, PaintedTorso]:
    torso = random_torso(np.random.default_rng(seed), Synthesis())
    return torso, PaintedTorso.of(torso)


def render(torso: Torso | PaintedTorso, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Render a patient of whom only the torso is given, in the portal-venous phase by a good scanner."""
    monkeypatch.setattr(patient, "draw_torso", lambda rng, settings: torso)
    return render_patient(8, Synthesis(intensity=0, resolution=0), (3.0, 3.0, 3.0), MARGIN_MM)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_painted_torso_is_the_torso_within_the_distance_of_its_nodes(seed: int, monkeypatch: pytest.MonkeyPatch):
    torso, painted = pair_of(seed)
    low, high = torso.gland_bounds()
    wide = (np.arange(-300, 240, 7.0), np.arange(-180, 150, 7.0), np.arange(-220, 220, 7.0))
    near = tuple(np.arange(a - 5, b + 5, 2.9) for a, b in zip(low, high, strict=True))
    assert (painted.paint(wide) == torso.paint(wide)).mean() > 0.93
    drawn, found = (np.isin(each.paint(near), GLAND) for each in (torso, painted))
    assert 2 * (drawn & found).sum() / (drawn.sum() + found.sum()) > 0.9
    places = np.meshgrid(*near, indexing="ij")
    assert (painted.in_gland(places) == torso.in_gland(places)).mean() > 0.97

    (image, label), (painted_image, painted_label) = (render(each, monkeypatch) for each in (torso, painted))
    assert all(abs(a - b) <= 4 for a, b in zip(label.shape, painted_label.shape, strict=True))
    assert (painted_label > 0).sum() == pytest.approx((label > 0).sum(), rel=0.05)
    for share in (10, 50, 90):
        assert np.percentile(painted_image, share) == pytest.approx(np.percentile(image, share), abs=12)
    assert painted_image[painted_label > 0].mean() == pytest.approx(image[label > 0].mean(), abs=3)


def test_the_finer_grid_is_read_where_it_lies_and_the_coarser_one_elsewhere():
    around = Block(np.array([0.0, 0, 0]), FINE_MM, np.full((20, 20, 20), Tissue.PARENCHYMA, np.uint8))
    whole = Block(np.array([-60.0, -60, -60]), WHOLE_MM, np.full((60, 60, 60), Tissue.FAT, np.uint8))
    axis = np.arange(-30.0, 70, 1.7)
    painted = PaintedTorso(whole, around, (np.zeros(3), np.full(3, 38.0))).paint((axis, axis, axis))
    inside = (axis >= -1) & (axis < 39)
    cube = inside[:, None, None] & inside[:, None] & inside
    assert np.array_equal(painted, np.where(cube, Tissue.PARENCHYMA, Tissue.FAT))


def test_beyond_what_is_stored_the_last_slices_go_on_and_air_lies_at_the_sides():
    _, painted = pair_of(3)
    axes = (np.array([HIGH_MM + 30, HIGH_MM + 300]), np.arange(-200.0, 150, 6), np.arange(-200.0, 200, 6))
    last, beyond = painted.paint(axes)
    assert np.array_equal(last, beyond) and (last != Tissue.AIR).any()
    for side in (-900.0, 900.0):
        assert (painted.paint((axes[0], np.array([side]), axes[2])) == Tissue.AIR).all()
        assert (painted.paint((axes[0], axes[1], np.array([side]))) == Tissue.AIR).all()


def test_a_file_is_small_and_holds_the_torso_and_what_it_was_made_of(made: Path, tmp_path: Path):
    torso, painted = pair_of(1)
    write_torso(tmp_path / "torso.npz", painted, {"seed": 7})
    found, made_of = read_torso(tmp_path / "torso.npz")
    assert made_of == {"seed": 7} and (tmp_path / "torso.npz").stat().st_size < 200_000
    for ours, theirs in ((painted.whole, found.whole), (painted.around, found.around)):
        assert np.array_equal(ours.materials, theirs.materials)
        assert np.array_equal(ours.start, theirs.start) and ours.step == theirs.step
    assert np.array_equal(found.gland_bounds(), torso.gland_bounds())
    _, made_of = read_torso(made / "torso_00001_tumour.npz")
    assert made_of["seed"] == 5 and made_of["index"] == 1 and made_of["tumours"] == 1 and made_of["renderer"]


def test_the_command_keeps_torsos_and_repeats_them_exactly(copied: Path, capsys: pytest.CaptureFixture):
    names = sorted(path.name for path in copied.glob("*.npz"))
    assert names == ["torso_00000.npz", "torso_00001_tumour.npz", "torso_00002_tumour.npz"]
    before, kept = ((copied / name).read_bytes() for name in names[:2])
    (copied / names[0]).unlink()
    (copied / names[1]).write_bytes(b"kept")
    assert main([str(copied), *COMMAND]) == 0
    assert "2 torsos with a tumour, 1 without" in capsys.readouterr().out
    assert (copied / names[0]).read_bytes() == before and (copied / names[1]).read_bytes() == b"kept" != kept
    assert main([str(copied), *COMMAND, "--seed", "6"]) == 2
    assert "made with other settings" in capsys.readouterr().err


def test_torsos_around_label_maps_remember_the_maps(tmp_path: Path, capsys: pytest.CaptureFixture):
    maps, out = tmp_path / "maps", tmp_path / "out"
    maps.mkdir()
    write_map(maps / "patient.npz")
    typed = [str(out), "--abdomen", f"{maps}:btcv", "--torsos", "--cases", "1", "--workers", "1", "--quiet"]
    assert main(typed) == 0
    _, made_of = read_torso(out / "torso_00000.npz")
    assert len(made_of["labels"]) == 16 and str(tmp_path) not in (out / "phantom.json").read_text()
    (maps / "patient.npz").rename(maps / "moved.npz")
    typed[2] = f"{maps.rename(tmp_path / 'elsewhere')}:btcv"
    torso_library.list_maps.cache_clear()
    assert main(typed) == 0  # the same maps, wherever they lie
    write_map(tmp_path / "elsewhere" / "second.npz")
    torso_library.list_maps.cache_clear()
    assert main(typed) == 2
    assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--prepared", "--abdomen"], ["--centres", "north"]])
def test_torsos_are_those_of_the_abdomen(tmp_path: Path, other: list[str], capsys: pytest.CaptureFixture):
    assert main([str(tmp_path / "out"), "--torsos", *other]) == 2
    assert "--torsos" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_patient_is_drawn_from_a_torso_of_the_library(made: Path):
    settings = Synthesis(labels=f"{made}:torsos")
    first, again, other = (render_patient((seed, 1), settings, (5.0, 5.0, 5.0), MARGIN_MM) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert first[1].any() and (first[0].shape != other[0].shape or (first[0] != other[0]).any())
    assert len(check_source(settings)) == 16


def test_as_many_patients_have_a_tumour_as_asked_for(made: Path):
    found = find_torsos(made)
    assert [len(found[tumour]) for tumour in (True, False)] == [2, 1]
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        drawn = [draw_torso(rng, Synthesis(labels=f"{made}:torsos", tumours=share)) for _ in range(12)]
        having = np.mean([(torso.around.materials == Tissue.LESION).any() for torso in drawn])
        assert having == share if share in (0, 1) else 0 < having < 1


def test_a_library_without_the_patients_that_are_asked_for_is_refused(copied: Path):
    settings = Synthesis(labels=f"{copied}:torsos", tumours=0.5)
    (copied / "torso_00000.npz").unlink()
    with pytest.raises(InputError, match="no torso without a tumour") as caught:
        check_source(settings)
    assert "tumours=1" in caught.value.remedy
    assert check_source(replace(settings, tumours=1.0))


def test_torsos_that_cannot_be_used_are_named(copied: Path):
    path, whole = copied / "torso_00002_tumour.npz", (copied / "torso_00002_tumour.npz").read_bytes()
    torso, made_of = read_torso(path)
    strange = replace(torso, whole=replace(torso.whole, materials=np.full((2, 2, 2), 99, np.uint8)))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF

    def spoil(words: str) -> None:
        check_library.cache_clear()
        with pytest.raises(InputError, match=words) as caught:
            check_library(copied)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)

    for content in (whole[:-400], bytes(flipped), b"", b"PK"):
        path.write_bytes(content)
        spoil("not a painted torso, or damaged")
    write_map(path)
    spoil("not a painted torso")
    write_torso(path, strange, made_of)
    spoil("materials are not known")
    write_torso(path, torso, made_of | {"seed": 6})
    spoil("made with another seed")
    write_torso(path, read_torso(copied / "torso_00000.npz")[0], made_of)
    spoil("its name does not say")


def test_folders_of_something_else_are_refused(made: Path, tmp_path: Path):
    write_map(tmp_path / "patient.npz")
    with pytest.raises(InputError, match="no painted torsos") as caught:
        check_source(Synthesis(labels=f"{tmp_path}:torsos"))
    assert "--torsos" in caught.value.command
    with pytest.raises(InputError, match="no such folder"):
        check_source(Synthesis(labels=f"{tmp_path}/no:torsos"))
    with pytest.raises(InputError, match="not a label map"):
        check_source(Synthesis(labels=f"{made}:btcv"))
    with pytest.raises(InputError, match="nothing says what the codes") as caught:
        check_source(Synthesis(labels=str(made)))
    assert "DIR:torsos" in caught.value.remedy


def test_a_library_is_not_made_from_a_library(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    typed = ["--abdomen", f"{made}:torsos", "--cases", "1", "--workers", "1", "--quiet"]
    assert main([str(tmp_path / "library"), *typed, "--torsos"]) == 2
    assert "not label maps" in capsys.readouterr().err
    assert main([str(tmp_path / "store"), *typed, "--prepared"]) == 0  # but scans are
