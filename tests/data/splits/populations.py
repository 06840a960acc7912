"""Cases that exist only as records, for tests of splits: no test here reads a scan."""

from pathlib import Path

from hypothesis import strategies as st

from data.cases.case import Case
from data.cases.preparation import Preparation
from data.scans.boxes import Box

BOX = Box((0, 0, 0), (2, 2, 2))


def centre(name: str, patients: list[tuple[str, bool]]) -> list[Case]:
    """A centre with one case for each (patient, whether a tumour is labelled)."""
    return [
        Case(
            Path(), name, f"scan{i}", patient, (9, 9, 9), (1, 1, 1), BOX, BOX if tumour else None, {}, {}, Preparation()
        )
        for i, (patient, tumour) in enumerate(patients)
    ]


def three_centres() -> dict[str, list[Case]]:
    """Three centres of nine patients, six of them with a tumour."""
    return {name: centre(name, [(f"p{i}", i % 3 > 0) for i in range(9)]) for name in ("a", "b", "c")}


# The patients of a centre: up to 25 scans of up to 12 patients.
people = st.lists(st.tuples(st.sampled_from([f"p{i}" for i in range(12)]), st.booleans()), min_size=1, max_size=25)
LISTS = {"train": ["a/scan0", "b/scan1"], "validation": ["b/scan2"], "test": ["c/scan0"]}
