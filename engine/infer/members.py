"""Which trained networks form an ensemble, and how they become one model of a stage."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common.errors import InputError
from engine.checkpoint import find_runs
from engine.infer.ensemble import Member
from engine.infer.models import StageModel
from engine.stages import Stage

ALL = "all"  # stands for every split of which all stages are trained


class Share(NamedTuple):
    """What a split contributes to an ensemble: the ``runs`` newest runs of each stage."""

    split: str
    runs: int = 1

    def __str__(self) -> str:
        return self.split if self.runs == 1 else f"{self.split}={self.runs}"

    @staticmethod
    def parse(text: str) -> "Share":
        """Read SPLIT or SPLIT=N.

        Raises:
            argparse.ArgumentTypeError: If that is something else.
        """
        found = re.fullmatch(r"([^=]+)(?:=([1-9][0-9]*))?", text, re.ASCII)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text} is not SPLIT or SPLIT=N, such as north or none=3")
        return Share(found[1], int(found[2] or 1))


def find_members(
    checkpoints: Path, stage: Stage, shares: Sequence[Share], *, until: str | None = None
) -> list[tuple[str, str]]:
    """Find the finished runs of a stage that belong to an ensemble.

    Args:
        checkpoints: Folder of all runs.
        stage: Of the cascade.
        shares: What each split contributes.
        until: Only runs that were started at this time or before.

    Returns:
        The split and the time of each run.

    Raises:
        InputError: If a split has too few of them.
    """
    members = []
    for share in shares:
        split, count = share
        runs = find_runs(checkpoints, stage, split, until=until)[-count:]
        if len(runs) < count:
            problem = f"{len(runs)} finished runs of {stage.title}, but --ensemble {share} asks for {count}"
            raise InputError(
                Path(checkpoints) / stage.name / split, problem, "ask for fewer, or train with another --seed"
            )
        members += [(split, run.name) for run in runs]
    return members


def choose_shares(shares: Sequence[Share], complete: Sequence[str]) -> list[Share]:
    """Replace "all" by the splits of which all stages are trained.

    Args:
        shares: As they were typed.
        complete: Names of these splits.

    Raises:
        InputError: If a split is named twice, or there is only one network.
    """
    chosen = [part for s in shares for part in ([Share(name, s.runs) for name in complete] if s.split == ALL else [s])]
    typed = f"--ensemble {' '.join(map(str, shares))}"
    if twice := {s.split for s in chosen if [other.split for other in chosen].count(s.split) > 1}:
        raise InputError(typed, f"names the split {min(twice)} twice", "give SPLIT=N for several runs of a split")
    if sum(s.runs for s in chosen) < 2:
        problem = "this is a single network" if chosen else "no split has finished models of all stages"
        raise InputError(typed, problem, "name several splits, or SPLIT=N for several runs of one")
    return chosen


def combine(models: Sequence[StageModel]) -> StageModel:
    """Make one model of several of the same stage: the mean of their probabilities, at the mean of their thresholds.

    What it finds has to be confirmed only if all networks have learned to say where there is no tumour, and it is
    averaged over the flips that all were trained with.

    Raises:
        InputError: If they see different boxes, or their training cases were prepared in different ways.
    """
    first = models[0]
    for other in models[1:]:
        if other.stage.sampling != first.stage.sampling or other.preparation != first.preparation:
            problem = f"trained with another sampling or preparation than {first.run}, so its boxes are others"
            raise InputError(other.run, problem, "leave it out, or train it with the same --sampling on the same store")
    ranges = [model.spacing_range for model in models if model.spacing_range is not None]
    low, high = zip(*ranges, strict=True) if len(ranges) == len(models) else ((), ())
    scores = [model.score_threshold for model in models if model.score_threshold is not None]
    return replace(
        first,
        threshold=float(np.mean([model.threshold for model in models])),
        score_threshold=float(np.mean(scores)) if len(scores) == len(models) else None,
        confirms=all(model.confirms for model in models),
        only_synthetic=all(model.only_synthetic for model in models),
        trained_flips=tuple(f for f in first.trained_flips if all(f in model.trained_flips for model in models)),
        spacing_range=[np.min(low, axis=0).tolist(), np.max(high, axis=0).tolist()] if low else None,
        members=tuple(Member(model.net, model.stage, model.threshold, model.run, model.sha256) for model in models),
    )
