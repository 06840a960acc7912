"""Records of earlier runs (JSON and YAML): read back as data, never as code, and with a checksum where they hold one.

A digit that changed on a disk or during a copy leaves a valid JSON file. Where such a record decides where voxels lie or
which cases are trained on, its checksum is written into it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHECKSUM = "checksum"  # the field


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it does not hold JSON; the message is one line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values; tags that would call Python functions are refused.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it does not hold YAML; the message is one line.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # PyYAML passes on whatever the parsers of dates and numbers raise for damaged values
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(lines[0]) from error


def checksum(record: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a record, without its field ``CHECKSUM``."""
    content = {key: value for key, value in record.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def verify_checksum(record: Mapping[str, Any]) -> None:
    """Check a record against its own checksum; a record of an earlier version, which has none, passes.

    Raises:
        ValueError: If the record was changed after it was written.
    """
    if CHECKSUM in record and record[CHECKSUM] != checksum(record):
        raise ValueError("its checksum does not fit, so it was damaged or edited")
