"""Records of earlier runs (JSON and YAML): read back as data, never as code, and compared with their checksum.

A digit that changed on a disk or in a copy leaves a valid JSON file. Records that decide where voxels lie or which
cases are trained on therefore hold a checksum of their fields.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CHECKSUM = "checksum"  # name of the field


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds fields.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it does not hold JSON, no fields, or a field twice; the message is one line.
    """
    return _read(path, lambda text: json.loads(text, object_pairs_hook=_fields))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds fields of plain values; a tag that would call a Python function is refused.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it does not hold YAML, or no fields; the message is one line.
    """
    return _read(path, yaml.safe_load)


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):  # one name that was changed into another: json would keep the last and drop the first
        raise ValueError("a field occurs twice")
    return fields


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        record = parse(content.decode("utf-8"))
    except Exception as error:  # PyYAML passes on whatever its parsers of dates and numbers raise for damaged values
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if not isinstance(record, dict):
        raise ValueError("it holds no fields")
    _refuse_cycles(record, ())
    return record


def _refuse_cycles(value: object, within: tuple[object, ...]) -> None:
    """Raise ValueError if a value holds itself, which YAML can say and nothing here could compare or print."""
    if any(value is outer for outer in within):
        raise ValueError("a value holds itself")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_cycles(item, (*within, value))


def checksum(record: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a record, without its field ``CHECKSUM``."""
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def verify_checksum(record: Mapping[str, Any]) -> None:
    """Compare a record with its own checksum; a record of an earlier version, which has none, passes.

    Raises:
        ValueError: If they differ.
    """
    if CHECKSUM in record and record[CHECKSUM] != checksum(record):
        raise ValueError("its checksum does not fit, so it was damaged or edited")


def to_json(value: Any) -> Any:  # noqa: ANN401
    """Return nested plain values as JSON can hold them: None in place of NaN, and infinite numbers as text."""
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
