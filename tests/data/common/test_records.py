"""Records of earlier runs are read as data; what is damaged gives one line, and a checksum reveals a changed digit."""

import json

import pytest

from data.common.records import CHECKSUM, checksum, read_json, read_yaml, verify_checksum

RECORD = {"spacing": [2.5, 0.8, 0.8], "name": "Österreich", "box": None}


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "record"
    path.write_text(json.dumps(RECORD), encoding="utf-8")
    assert read_json(path) == read_yaml(path) == RECORD


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", "{", "[" * 100_000, '{"a": 1, "a": 2}', '{"a": ' + "9" * 9999 + "}", "\udcff"]
)
def test_damaged_json_is_one_line(tmp_path, text):
    (tmp_path / "record.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_json(tmp_path / "record.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "- a",
        "a: [",
        "a: 2024-13-45",
        'a: !!int ""',
        "a: !!timestamp x",
        "a: " + "[" * 5000,
        "a: \0",
        "? [a]\n: b",
    ],
)
def test_damaged_yaml_is_one_line_whatever_its_parser_raises(tmp_path, text):
    (tmp_path / "record.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_yaml(tmp_path / "record.yaml")


def test_a_value_that_holds_itself_is_refused(tmp_path):
    (tmp_path / "record.yaml").write_text("a: &x\n  b: [1, *x]")
    with pytest.raises(ValueError, match="holds itself"):
        read_yaml(tmp_path / "record.yaml")


def test_a_tag_of_yaml_runs_nothing(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "record.yaml").write_text(f"a: !!python/object/apply:os.system [\"touch '{ran}'\"]")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        read_yaml(tmp_path / "record.yaml")
    assert not ran.exists()


def test_a_checksum_covers_every_other_field_and_survives_json():
    record = RECORD | {CHECKSUM: checksum(RECORD)}
    verify_checksum(json.loads(json.dumps(record)))
    verify_checksum(RECORD)  # of an earlier version
    for change in ({"spacing": [2.5, 0.8, 0.9]}, {"box": []}, {"more": 1}, {CHECKSUM: None}):
        with pytest.raises(ValueError, match="checksum"):
            verify_checksum(record | change)
