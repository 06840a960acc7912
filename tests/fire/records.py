"""Damaged and malicious records: what the readers of checkpoints, splits, manifests, settings and tables make of them.

Right outcomes:

- ``refused``: an InputError of one line that blames the file.
- ``undamaged``: what the record said before it was damaged.
- ``other text``: something else, from a record without a checksum, or from one that was built on purpose with valid
  checksums. Only its form can be checked.

A record is never allowed to run code, to raise another exception, or to change its meaning under a checksum.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tests.fire.damage import ANYWHERE
from tests.fire.harness import attempt, report
from tests.fire.record_kinds import GROUPS, UNNOTICEABLE

EACH = 200  # inputs of each group


@cache
def _whole(folder: Path, group: str, name: str, variant: int) -> tuple[bytes, str]:
    """Write a record in one of its variants; return its bytes and what is read from it."""
    kind, place = GROUPS[group][name], folder / "hit"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    content = kind.write(place, variant).read_bytes()
    return content, plain(kind.read(place))


def attack(folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Read one damaged or malicious record and judge the outcome."""
    group = list(GROUPS)[number // EACH]
    names = list(GROUPS[group])
    name, turn = names[number % len(names)], number % EACH // len(names)
    kind, rng = GROUPS[group][name], np.random.default_rng((seed, number))
    content, whole = _whole(folder, group, name, 0)
    other, whole_other = _whole(folder, group, name, 1)
    hit, ran = folder / "hit", folder / "ran"
    shutil.rmtree(hit)
    hit.mkdir()
    path = kind.write(hit, 0)
    ways = {**kind.crafted, **ANYWHERE, "joined from two": None}
    how = list(ways)[turn % len(ways)]
    if how == "joined from two":
        cut = int(rng.integers(1, len(content)))
        damaged = content[:cut] + other[cut:] if rng.integers(2) else other
    elif how in kind.crafted:
        damaged = kind.crafted[how](content, rng, ran)
    else:
        damaged = ANYWHERE[how](content, rng)
    path.write_bytes(damaged)
    made = attempt(lambda: plain(kind.read(hit)), hit)
    if ran.exists():
        ran.unlink()
        made = made._replace(outcome="code run")
    elif made.result is not None:
        may_differ = not kind.checked or how in UNNOTICEABLE or damaged == other or made.result == whole_other
        outcome = "undamaged" if made.result == whole else "other text" if may_differ else "wrong content"
        made = made._replace(outcome=outcome, detail=_difference(whole, made.result))
    return report(made, len(content), kind=f"{group}: {name}", damage=how)


def plain(value: Any) -> str:
    """Return a text that two values share only if they are equal, with all their arrays."""
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return repr(value)


def _difference(before: str, after: str) -> str:
    """Return the texts around the first place where two differ."""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(0, at - 60)
    return "" if before == after else f"{after[start : at + 60]!r} instead of {before[start : at + 60]!r}"
