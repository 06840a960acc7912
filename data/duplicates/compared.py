"""The record of a store that says which of its cases were compared with each other, and which pairs were found.

    <store>/duplicates.json

Comparing all scans with each other takes a time that grows with the square of their number. With this record only new
cases are compared, with each other and with the rest. Cases are named by a hash of their content, so a case that is
prepared again is a new one. A record that is damaged, edited or made by other rules is made again.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cases.case import Case
from data.common.files import replacing
from data.common.records import CHECKSUM, checksum, read_json, verify_checksum
from data.duplicates.thumbnail import content_hash

RECORD = "duplicates.json"
Pair = tuple[str, str, str, float]  # two identities, the kind of duplicate, and the correlation


@dataclass(frozen=True)
class Compared:
    """Cases that were all compared with each other, given by their identities, and the pairs that were found."""

    cases: frozenset[str] = frozenset()
    pairs: Sequence[Pair] = ()


def identify(case: Case) -> str:
    """Return a hash of all that the thumbnail of a case depends on."""
    files = json.dumps(case.files, sort_keys=True)
    return hashlib.sha256(f"{content_hash(case)} {files}".encode()).hexdigest()[:20]


def read_compared(store: Path, rules: Sequence[float]) -> Compared:
    """Read the record of a store; an empty one if there is no valid record by the same rules.

    Args:
        store: Folder of the prepared cases.
        rules: The numbers that decide when two thumbnails show the same scan.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = read_json(store / RECORD)
        verify_checksum({CHECKSUM: None, **record})  # a record without checksum is not valid
        if record["rules"] == list(rules):
            names = record["cases"]
            pairs = [(names[i], names[j], kind, correlation) for i, j, kind, correlation in record["pairs"]]
            return Compared(frozenset(names), pairs)
    return Compared()


def write_compared(store: Path, rules: Sequence[float], compared: Compared) -> None:
    """Write the record of a store atomically. A store that cannot be written to is left as it is."""
    names = sorted(compared.cases)
    number = {name: index for index, name in enumerate(names)}
    pairs = sorted(
        (*sorted((number[first], number[second])), kind, correlation)
        for first, second, kind, correlation in compared.pairs
    )
    record = {"rules": list(rules), "cases": names, "pairs": pairs}
    record[CHECKSUM] = checksum(record)
    with contextlib.suppress(OSError), replacing(store / RECORD) as unfinished:
        unfinished.write_text(json.dumps(record))
