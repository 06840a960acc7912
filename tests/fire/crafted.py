"""Records that someone built on purpose: with code in them, with values that make no sense, or much too large.

Each function takes the bytes of a whole record, a seeded generator and the file that its code would create if it ran.
"""

import builtins
import copy
import io
import json
import os
import pickle
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.random import Generator

Craft = Callable[[bytes, Generator, Path], bytes]

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "two\nlines",
    "../../etc/passwd",
    [],
    {},
    [1, 2],
    [[0, 0, 0], [1, 1]],
    {"a": [None]},
)
DEEP = 100_000  # nested lists; parsers that call themselves give up at about a thousand
BOMB_BYTES = 1 << 29


class Payload:
    """Unpickles to a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(ran: Path) -> list[Payload]:
    """Return objects whose unpickling creates the file ``ran``, or would let an attacker do so."""
    return [
        Payload(os.system, f"touch '{ran}'"),
        Payload(eval, f"open({str(ran)!r}, 'w').close()"),
        Payload(exec, f"open({str(ran)!r}, 'w').close()"),
        Payload(subprocess.check_call, ["touch", str(ran)]),
        Payload(builtins.open, str(ran), "w"),
        Payload(Path.touch, ran),
        Payload(__import__, "antigravity_of_the_test"),
        Payload(np.load, str(ran)),
    ]


def _one(choices: Any, rng: Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in items:
        yield (*path, key)
        yield from _leaves(value, (*path, key))


def change_value(tree: Any, rng: Generator) -> Any:
    """Return a copy of nested values in which one is another, is missing, or has another name."""
    tree = copy.deepcopy(tree)
    *above, key = _one(list(_leaves(tree)), rng)
    parent = tree
    for step in above:
        parent = parent[step]
    if isinstance(parent, tuple) or (isinstance(parent, dict) and rng.integers(4)) or isinstance(parent, list):
        if not isinstance(parent, tuple):
            parent[key] = _one(VALUES, rng)
    elif rng.integers(2):
        del parent[key]
    else:
        parent[f"{key}?"] = parent.pop(key)
    return tree


def checkpoint_with_code(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Put a payload into a checkpoint, in one of the ways in which torch and pickle write files."""
    payload, file = _one(payloads(ran), rng), io.BytesIO()
    record = torch.load(io.BytesIO(content), weights_only=True)
    record[_one(("net", "thresholds", "recipe", "code"), rng)] = payload
    way = rng.integers(4)
    if way == 3:
        return pickle.dumps(payload)
    torch.save(record if way else payload, file, _use_new_zipfile_serialization=way != 2)
    return file.getvalue()


def checkpoint_with_other_values(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change a value of a checkpoint and write it with valid checksums."""
    record, file = torch.load(io.BytesIO(content), weights_only=True), io.BytesIO()
    part = _one(("net", "recipe", "all", "optimiser"), rng)
    if part == "all" or not record.get(part):
        tensors = {key: record.pop(key) for key in ("net", "optimiser")}
        record = {**tensors, **change_value(record, rng)}
        if not rng.integers(3):
            record[_one(("net", "optimiser"), rng)] = _one(VALUES, rng)
    elif part == "net":
        name = _one(list(record["net"]), rng)
        record["net"][name] = _one((torch.zeros(3), torch.zeros(0), "x", record["net"][name].to(torch.complex64)), rng)
    else:
        record[part] = change_value(record[part], rng)
    torch.save(record, file)
    return file.getvalue()


def checkpoint_that_unpacks(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Compress a checkpoint, one of whose members unpacks to half a gigabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        big = _one(names, rng)
        for name in names:
            with new.open(name, "w") as member:
                member.write(old.read(name))
                for _ in range(BOMB_BYTES >> 24 if name == big else 0):
                    member.write(bytes(1 << 24))
    return file.getvalue()


def json_with_other_values(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change a value of a JSON file."""
    return json.dumps(change_value(json.loads(content), rng), indent=1).encode()


def json_without_checksum(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change a value of a JSON file as an earlier version wrote it, without checksums."""
    return json.dumps(change_value(_without_checksums(json.loads(content)), rng), indent=1).encode()


def _without_checksums(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: _without_checksums(value) for key, value in tree.items() if key != "checksum"}


def json_of_another_kind(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Replace a JSON file by something else that is JSON, or nearly."""
    text = content.decode()
    others = ("null", "3", '"x"', "[]", "{}", f"[{text}]", text + text, "[" * DEEP, '{"a":' * DEEP, "9" * 9999)
    return _one(
        (*(t.encode() for t in others), text.encode("utf-16"), b"\xef\xbb\xbf" + content, b"\xff" + content), rng
    )


def yaml_with_code(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Put a tag that calls a function, as PyYAML's unsafe loaders do, into a YAML file."""
    tags = (
        f"!!python/object/apply:os.system [\"touch '{ran}'\"]",
        f"!!python/object/apply:builtins.eval [\"open('{ran}', 'w')\"]",
        f"!!python/object/new:subprocess.check_call [[touch, '{ran}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        f"!!python/object/apply:pathlib.Path ['{ran}']",
    )
    lines = content.decode().splitlines()
    index = _one([i for i, line in enumerate(lines) if ": " in line], rng)
    lines[index] = f"{lines[index].split(': ')[0]}: {_one(tags, rng)}"
    return "\n".join(lines).encode()


def yaml_with_other_values(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change a value of a YAML file, or write one that PyYAML's own converters fail at."""
    if rng.integers(2):
        return yaml.safe_dump(change_value(yaml.safe_load(content), rng), sort_keys=False).encode()
    odd = (
        "2024-13-45",
        '!!int ""',
        "!!timestamp x",
        '!!float ""',
        "!!binary x",
        "&a [*a]",
        "[" * 2000,
        "0x",
        "? [a]",
        "@",
    )
    lines = content.decode().splitlines()
    index = _one([i for i, line in enumerate(lines) if ": " in line], rng)
    lines[index] = f"{lines[index].split(': ')[0]}: {_one(odd, rng)}"
    return "\n".join(lines).encode()


def yaml_of_another_kind(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Replace a YAML file by something else that is YAML, or nearly."""
    others = (
        "",
        "x",
        "- a\n- b",
        "3",
        "null",
        "a: b: c",
        "\t- x",
        "[" * DEEP,
        "---\n" * 3,
        "{}",
        "%YAML 9.9\n---\na: 1",
    )
    return _one((*(text.encode() for text in others), b"\xff\xfe" + content, b"a: \x00"), rng)


def table_with_other_cells(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change a cell of a CSV file."""
    cells = ("", "x", "nan", "inf", "1e999", '"', '"two\nlines"', "\0", "a,b", "x" * 200_000, "=1+1", "-0", "\xe9")
    lines = [line.split(",") for line in content.decode().splitlines()]
    row = lines[int(rng.integers(len(lines)))]
    row[int(rng.integers(len(row)))] = _one(cells, rng)
    return "\n".join(map(",".join, lines)).encode("latin-1")


def array_with_another_header(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Change type, order or shape in the header of a .npy file, whose length stays as it was."""
    changes = (
        (rb"'descr': '[^']*'", (b"'descr': '|O'", b"'descr': '<f8'", b"'descr': '>i2'", b"'descr': '|S9'")),
        (rb"'fortran_order': False", (b"'fortran_order': True", b"'fortran_order': 1")),
        (rb"\(\d+, (\d+), (\d+)\)", (rb"(1, \1, \2)", rb"(9999999, \1, \2)", rb"(-1, \1, \2)", rb"(\2, \1)", rb"()")),
    )
    pattern, replacements = _one(changes, rng)
    after = re.sub(pattern, _one(replacements, rng), content, count=1)
    end, excess = after.index(b"\n"), len(after) - len(content)
    return after[: end - excess] + after[end:] if excess > 0 else after[:end] + b" " * -excess + after[end:]


def array_with_code(content: bytes, rng: Generator, ran: Path) -> bytes:
    """Replace an array by an array of objects, which numpy stores as a pickle."""
    file = io.BytesIO()
    array = np.array([_one(payloads(ran), rng)], dtype=object)
    np.save(file, array) if content.startswith(b"\x93NUMPY") else np.savez(file, label=array, bits=array, shape=array)
    return file.getvalue()
