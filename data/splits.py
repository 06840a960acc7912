"""Leave one centre out, with a validation part inside the training centres: by patient, frozen as JSON."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.files import replacing
from data.store import Case

NONE_HELD_OUT = "none"
VALIDATION_SHARE = 0.2
SPLIT_SEED = 2022
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Keys (centre/case) of one split; ``held_out`` is the test centre, or "none"."""

    held_out: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def make_splits(centres: dict[str, list[Case]]) -> dict[str, Split]:
    """One split per centre, which it holds out, and "none", which trains on all.

    The validation part of a centre is the same in every split. Patients are drawn, not scans, and those with a
    tumour apart from those without, so that both kinds are validated on.
    """
    validation = {key for cases in centres.values() for key in _validation_keys(cases)}
    splits = {}
    for held_out in (*centres, NONE_HELD_OUT):
        keys = [case.key for name, cases in centres.items() if name != held_out for case in cases]
        splits[held_out] = Split(
            held_out=held_out,
            train=tuple(key for key in keys if key not in validation),
            validation=tuple(key for key in keys if key in validation),
            test=tuple(case.key for case in centres.get(held_out, ())),
        )
    return splits


def _validation_keys(cases: list[Case]) -> set[str]:
    """About a fifth of the patients of one centre, at least one of each kind that has two."""
    with_tumour = {case.patient for case in cases if case.tumour_box}
    drawn: set[str] = set()
    for kind in (with_tumour, {case.patient for case in cases} - with_tumour):
        patients = sorted(kind)
        seed = hashlib.sha256(f"{SPLIT_SEED} {cases[0].centre}".encode()).digest()
        order = np.random.default_rng(list(seed)).permutation(len(patients))
        count = max(1, round(VALIDATION_SHARE * len(patients))) if len(patients) > 1 else 0
        drawn.update(patients[i] for i in order[:count])
    return {case.key for case in cases if case.patient in drawn}


def frozen_splits(store: Path, centres: dict[str, list[Case]]) -> dict[str, Split]:
    """The splits of this store: drawn the first time and written to ``splits.json``, read from then on.

    Raises InputError when the store's cases are no longer those that the splits were drawn for.
    """
    path = Path(store) / "splits.json"
    if not path.exists():
        splits = make_splits(centres)
        with replacing(path) as unfinished:
            parts = {name: {part: getattr(split, part) for part in _PARTS} for name, split in splits.items()}
            unfinished.write_text(json.dumps(parts, indent=1))
        return splits
    try:
        content = json.loads(path.read_text()).items()
        splits = {name: Split(name, *(tuple(parts[part]) for part in _PARTS)) for name, parts in content}
        everything = splits[NONE_HELD_OUT]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not readable as splits ({error!r}); delete it to draw new ones") from error
    frozen_keys = {*everything.train, *everything.validation}
    keys = {case.key for cases in centres.values() for case in cases}
    if frozen_keys != keys:
        raise InputError(
            f"{path}: drawn for other cases (the store has {len(keys - frozen_keys)} new and lacks "
            f"{len(frozen_keys - keys)}); delete it to draw new splits, then train again"
        )
    return splits


def choose_splits(splits: dict[str, Split], held_out: str | None) -> list[Split]:
    """The split that ``--data`` names, or every leave-one-centre-out split. Raises InputError with the names."""
    centres = [name for name in splits if name != NONE_HELD_OUT]
    if held_out is not None:
        if held_out not in splits:
            names = ", ".join((*centres, NONE_HELD_OUT))
            raise InputError(f"--data {held_out}: no such centre is prepared; choose one of {names}")
        chosen = [splits[held_out]]
    else:
        chosen = [splits[name] for name in centres]
    if any(not split.train for split in chosen):
        raise InputError(
            f"only one centre is prepared ({centres[0]}): holding it out leaves nothing to train on; "
            f"prepare another with python -m data.prepare, or train on it with --data {NONE_HELD_OUT}"
        )
    return chosen


def select(centres: dict[str, list[Case]], keys: Iterable[str]) -> list[Case]:
    """The cases of these keys, in their order."""
    by_key = {case.key: case for cases in centres.values() for case in cases}
    return [by_key[key] for key in keys]
