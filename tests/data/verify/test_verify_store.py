"""``data.verify --store``: prepared cases against the hashes of their files."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.cases.case import write_case
from data.scans.grid import Grid
from data.verify.command import main

SHAPE, SPACING = (4, 5, 6), (2.0, 1.0, 1.0)


@pytest.fixture
def store(tmp_path):
    """A store of three cases."""
    for number in range(3):
        label = np.zeros(SHAPE, np.uint8)
        label[1:3, 1:3, 1:3] = 1
        write_case(
            tmp_path / "store",
            "a",
            f"case{number}",
            np.full(SHAPE, number, np.int16),
            label,
            patient=f"p{number}",
            spacing=SPACING,
            grid=Grid.plain(SHAPE, SPACING),
            source={},
        )
    return tmp_path / "store"


def verify(store: Path, *more: str) -> int:
    return main(["--store", str(store), "--workers", "1", *more])


def test_a_whole_store_passes(store, capsys):
    assert verify(store) == 0
    assert "3 cases, nothing damaged" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["image.npy", "label.npy"])
def test_one_changed_bit_is_found(store, name, capsys, tmp_path):
    path = store / "a/case1" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    assert verify(store, "--json", str(tmp_path / "found.json")) == 2
    output = capsys.readouterr().out
    assert "3 cases, 1 damaged files" in output and f"a/case1/{name}" in output
    [finding] = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert finding["level"] == "fatal" and finding["case"] == f"a/case1/{name}"


def test_a_lost_file_and_a_damaged_manifest_are_found(store, capsys):
    (store / "a/case0/label.npy").unlink()
    (store / "a/case2/case.json").write_text("{")
    assert verify(store) == 2
    assert "3 cases, 2 damaged files" in capsys.readouterr().out


def test_a_case_without_hashes_is_a_warning(store, tmp_path):
    path = store / "a/case0/case.json"
    manifest = json.loads(path.read_text())
    del manifest["files"], manifest["checksum"]
    path.write_text(json.dumps(manifest))
    assert verify(store, "--json", str(tmp_path / "found.json")) == 0
    [finding] = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert finding["level"] == "warning" and "recorded no hashes" in finding["problem"]


def test_an_empty_store_and_half_a_command_are_refused(tmp_path, capsys):
    assert verify(tmp_path) == 2
    assert "no centre is prepared here" in capsys.readouterr().err
    for argv in (["folder"], ["folder", str(tmp_path)], ["--centre", "a"], ["--sheet", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
