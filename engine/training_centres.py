"""The centres that a model was trained on, as ``settings.yaml`` of its run and ``model.json`` record them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError
from data.common.records import read_yaml
from data.splits.split import SYNTHETIC

Counts = Mapping[str, Mapping[str, int]]


class TrainingCentres(NamedTuple):
    """The centres of the cases of a run.

    Attributes:
        counts: Number of cases of each centre in the parts of the split, ``{"train": {"centre": 12}, ...}``; None for a
            run that did not record it, as those of earlier versions and imported ones.
        synthetic: Centres all of whose scans are synthetic, as far as it is known.
    """

    counts: Counts | None = None
    synthetic: Sequence[str] = ()

    @property
    def trained_on(self) -> list[str]:
        """The centres of the training cases, as far as they are recorded."""
        return sorted((self.counts or {}).get("train", {}))

    @property
    def only_synthetic(self) -> bool:
        """Whether it is known that no training case is a scan of a patient."""
        return bool(self.trained_on) and {*self.trained_on} <= {SYNTHETIC, *self.synthetic}

    def to_record(self) -> dict[str, Any]:
        """Return the centres as plain values."""
        return {"centres": self.counts, "synthetic_centres": list(self.synthetic)}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "TrainingCentres":
        """Invert ``to_record``; other values of the record are not read.

        Raises:
            ValueError: If the record is damaged.
        """
        counts, synthetic = record.get("centres"), record.get("synthetic_centres", [])
        try:
            sound = all(type(count) is int for part in (counts or {}).values() for count in part.values())
        except AttributeError:
            sound = False
        if not sound or not isinstance(synthetic, list):
            raise ValueError("its centres are not numbers of cases")
        return TrainingCentres(counts, tuple(synthetic))


def read_centres(run: Path) -> TrainingCentres:
    """Read the centres of the cases of a run from its ``settings.yaml``.

    Raises:
        InputError: If the record is damaged.
    """
    path = run / "settings.yaml"
    if not path.exists():
        return TrainingCentres()
    try:
        return TrainingCentres.from_record(read_yaml(path))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(path, f"damaged ({error})", "restore it, or move it away") from error
