"""Which cases are trained on, validated on and tested on: by patient, frozen as JSON in the store.

    python -m data.splits                        # the splits of the store as a table
    python -m data.splits --folds 5              # adds a cross-validation over all centres: folds_1 ... folds_5
    python -m data.splits --folds 5 --within a   # the same inside the centre a: a_folds_1 ... a_folds_5
    python -m data.splits --from lists.json      # adds fixed lists (data.split_kinds.read_lists)

Unasked, each centre is left out once, with a validation part inside the training centres. Training and evaluation take
any split by ``--data NAME``, and all folds by ``--data folds``.
"""

import hashlib
import json
import re
import sys
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data.cases.store import Case
from data.common.errors import InputError
from data.common.files import replacing

NONE_HELD_OUT = "none"
VALIDATION_SHARE = 0.2
SPLIT_SEED = 2022
SPLIT_PARTS = ("train", "validation", "test")
FOLDS = "folds"


def centre_of(key: str) -> str:
    """The centre in a case's key."""
    return key.split("/")[0]


@dataclass(frozen=True)
class Split:
    """Keys (centre/case) of one split; ``name`` is: the test centre, "none", a fold, a list."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def leaves_a_centre_out(self) -> bool:
        """Whether its test part is the centre of its name (no other kind of split may be called like a centre)."""
        return bool(self.test) and {centre_of(key) for key in self.test} == {self.name}


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
            name=held_out,
            train=tuple(key for key in keys if key not in validation),
            validation=tuple(key for key in keys if key in validation),
            test=tuple(case.key for case in centres.get(held_out, ())),
        )
    return splits


def drawn_patients(cases: list[Case]) -> list[list[str]]:
    """The patients of one centre with a tumour, and those without, each in an order drawn once and for all."""
    with_tumour = {case.patient for case in cases if case.tumour_box}
    drawn = []
    for kind in (with_tumour, {case.patient for case in cases} - with_tumour):
        patients = sorted(kind)
        seed = hashlib.sha256(f"{SPLIT_SEED} {cases[0].centre}".encode()).digest()
        order = np.random.default_rng(list(seed)).permutation(len(patients))
        drawn.append([patients[i] for i in order])
    return drawn


def _validation_keys(cases: list[Case]) -> set[str]:
    """About a fifth of the patients of one centre, at least one of each kind that has two."""
    drawn: set[str] = set()
    for patients in drawn_patients(cases):
        drawn.update(patients[: max(1, round(VALIDATION_SHARE * len(patients))) if len(patients) > 1 else 0])
    return {case.key for case in cases if case.patient in drawn}


def frozen_splits(store: Path, centres: dict[str, list[Case]], save: bool = True) -> dict[str, Split]:
    """The splits of this store, by name: those that leave a centre out, then folds and lists that were added.

    The former are drawn the first time and, if ``save``, written to ``splits.json``, read from then on; the latter lie
    in ``splits_<name>.json`` beside it. Raises InputError when the store's cases are no longer those of ``splits.json``
    or of folds, or lack some of a list.
    """
    path = Path(store) / "splits.json"
    splits = read_splits(path) if path.exists() else make_splits(centres)
    if save and not path.exists():
        freeze(path, splits)
    keys = {case.key for cases in centres.values() for case in cases}
    if NONE_HELD_OUT not in splits:
        raise InputError(f"{path}: not readable as splits (no {NONE_HELD_OUT!r}); delete it to draw new ones")
    everything = splits[NONE_HELD_OUT]
    _check_cases(path, {*everything.train, *everything.validation}, keys)
    for added in sorted(path.parent.glob("splits_*.json")):
        more = read_splits(added)
        _check_added(added, more, keys)
        if twice := more.keys() & splits.keys():
            raise InputError(f"{added}: {min(twice)} is the name of another split or centre too; rename or delete it")
        splits |= more
    return splits


def _check_added(path: Path, splits: dict[str, Split], keys: set[str]) -> None:
    """Folds must hold every case of their centres, lists may choose."""
    named = {key for split in splits.values() for part in SPLIT_PARTS for key in getattr(split, part)}
    of_centres = {key for key in keys if centre_of(key) in {centre_of(name) for name in named}}
    pooled = path.stem == f"splits_{FOLDS}"
    _check_cases(path, named, keys if pooled else of_centres if path.stem.endswith(f"_{FOLDS}") else named & keys)


def drawn_without(store: Path, keys: Iterable[str]) -> str:
    """Which of these cases ``splits.json`` does not know, in words; empty where it knows them all or is not there."""
    path = Path(store) / "splits.json"
    everything = read_splits(path).get(NONE_HELD_OUT) if path.exists() else None
    new = set(keys) - {*everything.train, *everything.validation} if everything else set()
    told = f"{path} was drawn without {len(new)} cases of the store, such as {min(new)}" if new else ""
    return told and f"{told}; delete it to draw new splits, then train again"


def freeze(path: Path, splits: dict[str, Split]) -> None:
    """Write splits, whole or not at all."""
    with replacing(path) as unfinished:
        parts = {name: {part: getattr(split, part) for part in SPLIT_PARTS} for name, split in splits.items()}
        unfinished.write_text(json.dumps(parts, indent=1))


def read_splits(path: Path) -> dict[str, Split]:
    """What ``freeze`` wrote. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text()).items()
        return {name: Split(name, *(tuple(parts[part]) for part in SPLIT_PARTS)) for name, parts in content}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not readable as splits ({error!r}); delete it to draw new ones") from error


def _check_cases(path: Path, frozen_keys: set[str], keys: set[str]) -> None:
    if frozen_keys == keys:
        return
    new, gone = keys - frozen_keys, frozen_keys - keys
    of = ", ".join(sorted({centre_of(key) for key in new | gone}))
    whole = sorted({centre_of(key) for key in new} - {centre_of(key) for key in frozen_keys})
    undo = f", or delete {', '.join(str(path.parent / name) for name in whole)}" if whole and not gone else ""
    raise InputError(
        f"{path}: drawn for other cases (the store has {len(new)} new and lacks {len(gone)}, of {of}); "
        f"delete it to draw new splits, then train again{undo}"
    )


def centres_with(centres: dict[str, list[Case]], target: str) -> set[str]:
    """The centres where any case has a labelled "pancreas" or "tumour": the others join no training for it, nor tell
    anything about it when held out (where no tumour is labelled a scan is not known to be free of one).
    """
    box = "tumour_box" if target == "tumour" else "pancreas_box"
    return {name for name, cases in centres.items() if any(getattr(case, box) for case in cases)}


def choose_splits(splits: dict[str, Split], held_out: str | None, among: Container[str] | None = None) -> list[Split]:
    """The split that ``--data`` names (or the folds of that name), or every leave-one-centre-out split.

    Args:
        among: of the centres, those worth holding out where none is named (``centres_with``); None for all.

    Raises InputError with the names there are, or where nothing is left to train on.
    """
    centres = [name for name, split in splits.items() if split.leaves_a_centre_out]
    if held_out is None:
        chosen = [splits[name] for name in centres if among is None or name in among]
    elif held_out in splits:
        chosen = [splits[held_out]]
    else:
        folds = rf"{re.escape(held_out)}_\d+" if held_out.endswith(FOLDS) else r"(?!)"
        chosen = [split for name, split in splits.items() if re.fullmatch(folds, name)]
    if not chosen and held_out is None:
        raise InputError("no prepared centre has what is to be segmented labelled; prepare one that has")
    if not chosen:
        names = ", ".join((*centres, *(n for n in splits if n not in (*centres, NONE_HELD_OUT)), NONE_HELD_OUT))
        raise InputError(f"--data {held_out}: no such centre is prepared; choose one of {names}")
    if any(not split.train for split in chosen):
        raise InputError(
            f"only one centre is prepared ({centres[0]}): holding it out leaves nothing to train on; "
            f"prepare another with python -m data.prepare, or train on it with --data {NONE_HELD_OUT}, "
            f"or add folds with python -m data.splits --folds 5"
        )
    return chosen


def select(centres: dict[str, list[Case]], keys: Iterable[str]) -> list[Case]:
    """The cases of these keys, in their order."""
    by_key = {case.key: case for cases in centres.values() for case in cases}
    return [by_key[key] for key in keys]


def held_out_cases(split: Split, centres: dict[str, list[Case]], target: str) -> list[Case]:
    """The test cases of the centres that have the target labelled (``centres_with``).

    Raises InputError where there are none: an evaluation of nothing would look like a finished one.
    """
    known = centres_with(centres, target)
    cases = [case for case in select(centres, split.test) if case.centre in known]
    if not cases:
        told = f"no {target} is labelled there, so there is nothing to evaluate on"
        raise InputError(f"hold out {split.name}: {told}; hold out a centre that has one")
    return cases


def without_pancreas_only(split: Split, with_tumours: set[str]) -> Split:
    """The split without training cases of centres where no tumour is labelled: nnU-Net would learn that there is none.

    As it is where no centre has one. Raises InputError where nothing is left to train on.
    """
    if not with_tumours:
        return split
    parts = {
        part: tuple(k for k in getattr(split, part) if centre_of(k) in with_tumours) for part in ("train", "validation")
    }
    if not parts["train"]:
        raise InputError(f"--data {split.name}: leaves no centre with a tumour to train on; choose another split")
    return replace(split, **parts)


if __name__ == "__main__":
    from data.splits.command import main  # which imports this room: it must not be there twice

    sys.exit(main())
