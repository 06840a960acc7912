"""A split says which cases a model is trained on, validated on and tested on.

Cases are named by their key, ``centre/case``. There are four kinds of split:

- ``centre``: tests on all cases of one centre and trains on the other centres (``leave_one_out.py``);
- ``none``: holds nothing out and trains on all centres, for a model that will see other hospitals;
- ``fold``: one fold of a cross-validation (``folds.py``);
- ``list``: lists of cases that a user wrote (``lists.py``);
- ``synthetic``: trains on synthetic patients only and tests on every prepared case (``synthetic_split``).

The splits of a store are kept as JSON files (``frozen.py``). This module also chooses the splits of a run by name and
selects their cases.
"""

import hashlib
import json
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from data.cases.case import Case
from data.common.errors import InputError

SplitKind = Literal["centre", "fold", "list", "none", "synthetic"]
SPLIT_PARTS = ("train", "validation", "test")
NONE_HELD_OUT = "none"  # the name of the one split of the kind "none"
SYNTHETIC = "synthetic"  # the name of the one split of this kind, and of the centre of all synthetic patients
RESERVED_NAMES = (NONE_HELD_OUT, SYNTHETIC)  # no centre and no list can have them


@dataclass(frozen=True)
class Split:
    """The cases of one split, by key.

    Attributes:
        name: Name of the split: the centre that it holds out, "none", ``<cross-validation>_<number>``, or the name
            that a user gave to lists.
        train: Keys of the training cases.
        validation: Keys of the validation cases, on which the best epoch and the threshold are chosen.
        test: Keys of the test cases.
        kind: What the split was made for; see the top of this file.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    kind: SplitKind = "list"

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The keys of each part, by its name in ``SPLIT_PARTS``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def all_keys(self) -> tuple[str, ...]:
        """The keys of all cases, those of the training part first."""
        return (*self.train, *self.validation, *self.test)

    @property
    def cross_validation(self) -> str:
        """The name that all folds of the same cross-validation share; empty for the other kinds of split."""
        return self.name.rpartition("_")[0] if self.kind == "fold" else ""

    @property
    def title(self) -> str:
        """What the split is, in a few words."""
        titles = {
            "centre": f"{self.name} held out",
            "none": "no centre held out",
            "fold": f"fold {self.name}",
            "list": f"split {self.name}",
            "synthetic": "trained on synthetic patients",
        }
        return titles[self.kind]

    @property
    def hash(self) -> str:
        """A hash of the name and of the cases of each part, by which a run recognises the split it was trained on."""
        # The field is called "held_out" and the kind is left out, so that the hashes in existing checkpoints stay
        # valid. No prepared case decides what is trained on synthetic patients.
        record = {"held_out": self.name, **(dict.fromkeys(SPLIT_PARTS, ()) if self.kind == "synthetic" else self.parts)}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def centre_of(key: str) -> str:
    """Return the centre in the key of a case."""
    return key.split("/")[0]


def synthetic_split(centres: dict[str, list[Case]]) -> Split:
    """Return the split that trains on synthetic patients only, so that every prepared case is a test case."""
    return Split(SYNTHETIC, (), (), tuple(case.key for cases in centres.values() for case in cases), kind="synthetic")


def choose_splits(
    splits: dict[str, Split], name: str | None, among: Container[str] | None = None, *, option: str = "--data"
) -> list[Split]:
    """Choose the splits of a run.

    Args:
        splits: The splits of the store, by name.
        name: Name of one split, or of a cross-validation for all its folds. None chooses every split that holds a
            centre out.
        among: If ``name`` is None, the centres that are worth holding out (see ``centres_with``); None for all.
        option: The command-line option that gave the name, for messages.

    Returns:
        The chosen splits, at least one.

    Raises:
        InputError: If there is no split of this name, no centre to hold out, or nothing left to train on.
    """
    if name is None:
        chosen = [
            split for split in splits.values() if split.kind == "centre" and (among is None or split.name in among)
        ]
        if not chosen:
            problem = "no centre has a label of the structure to segment"
            raise InputError("prepared cases", problem, "prepare a centre in which it is labelled")
    elif name in splits:
        chosen = [splits[name]]
    else:
        chosen = [split for split in splits.values() if split.kind == "fold" and split.cross_validation == name]
        if not chosen:
            ordered = [split for kind in get_args(SplitKind) for split in splits.values() if split.kind == kind]
            names = dict.fromkeys(n for split in ordered for n in (split.cross_validation, split.name) if n)
            raise InputError(
                f"{option} {name}", "no centre or split has this name", f"choose one of {', '.join(names)}"
            )
    for split in chosen:
        if not split.train:
            problem = "it holds out the only prepared centre, which leaves no case to train on"
            others = f'use the split "{NONE_HELD_OUT}" to train on this centre, or a fold of it'
            raise InputError(f"{option} {split.name}", problem, f"prepare another centre, {others}")
    return chosen


def select_cases(centres: dict[str, list[Case]], keys: Iterable[str]) -> list[Case]:
    """Return the cases that have these keys, in the order of the keys."""
    by_key = {case.key: case for cases in centres.values() for case in cases}
    return [by_key[key] for key in keys]


def centres_with(centres: dict[str, list[Case]], target: str) -> set[str]:
    """Return the centres in which at least one case has a labelled ``target``, "pancreas" or "tumour".

    The other centres can neither train nor test a model for it: where no tumour is labelled in a whole centre, a scan
    without a label is not known to be free of tumours.
    """
    return {name for name, cases in centres.items() if any(case.target_box(target) for case in cases)}


def held_out_cases(split: Split, centres: dict[str, list[Case]], target: str) -> list[Case]:
    """Return the test cases of those centres that have the target labelled (see ``centres_with``).

    Raises:
        InputError: If there is none, because an evaluation of no case would look like a finished one.
    """
    labelled = centres_with(centres, target)
    cases = [case for case in select_cases(centres, split.test) if case.centre in labelled]
    if not cases:
        problem = f"no {target} is labelled in the centres of its test cases, so there is nothing to evaluate"
        raise InputError(f"split {split.name}", problem, "choose a split whose test cases have such labels")
    return cases


def exclude_centres_without_tumours(split: Split, centres_with_tumours: set[str]) -> Split:
    """Remove the training and validation cases of centres in which no tumour is labelled.

    nnU-Net, which trains on all labels at once, would learn from these cases that there is no tumour. The split is
    returned unchanged if no centre at all has a labelled tumour, because then nothing contradicts them.

    Raises:
        InputError: If no training case is left.
    """
    if not centres_with_tumours:
        return split
    train, validation = (
        tuple(key for key in keys if centre_of(key) in centres_with_tumours) for keys in (split.train, split.validation)
    )
    if not train:
        problem = "no training case comes from a centre with labelled tumours"
        raise InputError(f"split {split.name}", problem, "choose another split")
    return replace(split, train=train, validation=validation)
