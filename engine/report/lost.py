"""Cases that were lost, and the stage of the cascade that lost each of them.

A case is lost if it has a target and its mask has a Dice below ``LOST_DICE`` with the reference: it lies elsewhere, is
empty, or is so much too large or too small that it does not show where the target is. ``engine.evaluate.lost`` finds
the stage.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.stages import STAGES

LOST_DICE = 0.1


def has_target(row: Mapping[str, Any]) -> bool:
    """Return whether the case of a row was evaluated and its reference contains what is segmented."""
    return bool(row.get("reference_ml", 0) > 0)


def is_missed(row: Mapping[str, Any]) -> bool:
    """Return whether a target was missed: no predicted voxel lies in it, whether or not there are any elsewhere."""
    return has_target(row) and row["dice"] == 0


def is_lost(row: Mapping[str, Any]) -> bool:
    """Return whether a case was lost."""
    return has_target(row) and row["dice"] < LOST_DICE


@dataclass(frozen=True)
class LostCases:
    """How many cases were lost.

    Attributes:
        with_target: Number of evaluated cases that have a target.
        lost: Number of those that were lost.
        stages: Number of cases that each stage lost, in the order of the cascade; only stages that lost any. Masks of
            other programs, and evaluations of earlier versions, have no stage.
    """

    with_target: int
    lost: int
    stages: dict[str, int]

    @property
    def unknown(self) -> int:
        """Number of lost cases whose stage was not recorded."""
        return self.lost - sum(self.stages.values())

    def describe(self) -> str:
        """Return the figures in words, such as "2 of 6: 1 in tumor coarse, 1 in tumor fine"."""
        parts = [f"{count} in {STAGES[name].title}" for name, count in self.stages.items()]
        parts += [f"{self.unknown} in a stage that was not recorded"] if parts and self.unknown else []
        return f"{self.lost} of {self.with_target}" + (f": {', '.join(parts)}" if parts else "")


def count_lost(rows: Sequence[Mapping[str, Any]]) -> LostCases:
    """Count the lost cases of a table, and those of each stage."""
    lost = [row for row in rows if is_lost(row)]
    stages = Counter(row.get("lost_in") for row in lost)
    return LostCases(
        with_target=sum(map(has_target, rows)),
        lost=len(lost),
        stages={name: stages[name] for name in STAGES if stages[name]},
    )
