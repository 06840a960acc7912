"""Read the label of a case: what its codes mean, and how its file or files become one array on the scan's grid.

The meaning of codes is stated by the user (``--labels``), by the names of the codes in the label file or in the data
set's dataset.json, or by the documentation of the data set. ``settle_map`` decides between them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.common.errors import InputError
from data.scans.boxes import filled_rows
from data.scans.segments import CodeNames, code_names
from data.scans.volume import Volume, read_label
from data.sources.label_names import BACKGROUND, describe_names, label_of_name

CODES = 256  # codes are uint8
UNKNOWN = 255  # marks codes without a meaning in a table of labels 0, 1 and 2


@dataclass(frozen=True)
class LabelMap:
    """Which of our labels (0 background, 1 pancreas, 2 tumour) each code of a data set becomes.

    Attributes:
        codes: Pairs (code, label).
        rest: The label of all codes that are not named; None if they are refused.
        given: Whether the user has stated this map (``--labels``). Any other map gives way to the names in a file.
    """

    codes: tuple[tuple[int, int], ...]
    rest: int | None = None
    given: bool = field(default=False, compare=False)

    @staticmethod
    def parse(text: str) -> "LabelMap":
        """Parse pairs code=label such as ``"10=1,11=2,*=0"``.

        Code 0 stays background unless it is named; ``*`` stands for all codes that are not named.

        Raises:
            ValueError: If a part of the text is not such a pair.
        """
        codes, rest = {0: 0}, None
        for item in text.split(","):
            match = re.fullmatch(r"\s*(\d+|\*)\s*=\s*([012])\s*", item)
            if not match or (match[1] != "*" and int(match[1]) >= CODES):
                raise ValueError(f'"{item.strip()}" is not a pair code=label')
            if match[1] == "*":
                rest = int(match[2])
            else:
                codes[int(match[1])] = int(match[2])
        return LabelMap(tuple(sorted(codes.items())), rest)

    @staticmethod
    def one_organ(pancreas: int, last: int) -> "LabelMap":
        """Make the map of a data set with organs 1 to ``last``, of which ``pancreas`` is kept.

        Higher codes are refused: a label that has one belongs to another data set.
        """
        return LabelMap(tuple((code, int(code == pancreas)) for code in range(last + 1)))

    def __str__(self) -> str:
        """The text that ``parse`` reads."""
        pairs = [f"{code}={label}" for code, label in self.codes]
        return ",".join(pairs if self.rest is None else [*pairs, f"*={self.rest}"])

    @property
    def gives_tumour(self) -> bool:
        """Whether any code becomes the label tumour."""
        return self.rest == TUMOUR or any(label == TUMOUR for _, label in self.codes)

    def table(self) -> np.ndarray:
        """Return the label of every code from 0 to 255 (uint8), UNKNOWN for those without one."""
        table = np.full(CODES, UNKNOWN if self.rest is None else self.rest, np.uint8)
        for code, label in self.codes:
            table[code] = label
        return table

    def apply(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Map the codes of a label file to labels.

        Args:
            path: The file, for messages.
            array: Codes, uint8, shape (D, H, W); they are replaced by the labels, as a scan can have 1 GB of them.

        Returns:
            The array, now of labels 0/1/2.

        Raises:
            InputError: If the array holds codes that the map does not name.
        """
        table = self.table()
        present = codes_in(array)
        unknown = present[table[present] == UNKNOWN]
        if unknown.size:
            raise InputError(
                path,
                f"it has label codes {', '.join(map(str, unknown))}, which the map {self} does not name",
                "look up what every code means in this label, also the codes that the map names, and give a map of "
                "them all: --labels with pairs code=label, where label 0 is background, 1 pancreas and 2 tumour",
            )
        for plane in array:  # plane by plane, because indexing converts to int64
            rows = slice(None) if table[0] else filled_rows(plane)  # zeros that are not written to take no memory
            plane[rows] = table[plane[rows]]
        return array


def map_of_names(path: Path, names: CodeNames) -> LabelMap:
    """Make the label map that the names of codes state.

    Args:
        path: The file that names them, for messages.
        names: The names by code.

    Raises:
        InputError: If the meaning of a name is not known, or none is that of a pancreas.
    """
    labels = {code: label_of_name(name) for code, name in names.items()}
    if None not in labels.values() and PANCREAS in labels.values() and not labels.get(0):
        return LabelMap(tuple(sorted({0: BACKGROUND, **{c: n for c, n in labels.items() if n is not None}}.items())))
    pairs = ",".join(f"{code}={'?' if label is None else label}" for code, label in sorted(labels.items()))
    problem = f"the names of its codes do not tell which is the pancreas: {describe_names(names)}"
    if None in labels.values():
        problem = f"it has codes with names that are not known: {describe_names(names)}"
    elif not {PANCREAS, TUMOUR}.intersection(n for n in labels.values() if n is not None):
        raise InputError(
            path, f"none of its codes is a pancreas: {describe_names(names)}", "give labels of the pancreas"
        )
    remedy = "look at the label and say what each code is, 0 background, 1 pancreas or 2 tumour"
    raise InputError(path, problem, f'{remedy}, in the form --labels "{pairs}"')


def find_contradiction(labels: LabelMap, names: CodeNames) -> str:
    """Describe how a label map contradicts the names of codes; empty if it does not.

    A tumour may count as pancreas, as it does in the pancreas stages; names without a known meaning say nothing.
    """
    allowed = {BACKGROUND: (BACKGROUND,), PANCREAS: (PANCREAS,), TUMOUR: (PANCREAS, TUMOUR)}
    table = labels.table()
    for code, name in names.items():
        named = label_of_name(name)
        if named is not None and table[code] not in (*allowed[named], UNKNOWN):
            return f"its codes are named {describe_names(names)}, which the map {labels} contradicts"
    return ""


def settle_map(path: Path, names: CodeNames, labels: LabelMap, *, accept: bool) -> tuple[LabelMap, list[str]]:
    """Decide what the codes of one label file mean.

    Args:
        path: The file, for messages.
        names: The names of its codes, if it has any.
        labels: The map of the data set or of the user.
        accept: Whether to follow the user's map even if it contradicts the names.

    Returns:
        The map, and a note if the names lead to another one than ``labels``.

    Raises:
        InputError: If the user's map contradicts the names, or there is none and the names are not understood.
    """
    if not names:
        return labels, []
    if max(names) >= CODES:
        remedy = "renumber its segments, for instance by exporting it as a labelmap from 3D Slicer"
        raise InputError(path, f"its codes run up to {max(names)}, not within 0 to {CODES - 1}", remedy)
    if labels.given:
        contradiction = find_contradiction(labels, names)
        if contradiction and not accept:
            remedy = "leave --labels out to follow the names, or insist on the map with --accept-labels"
            raise InputError(path, contradiction, remedy)
        return labels, [contradiction] if contradiction else []
    by_name = map_of_names(path, names)
    differ = any(by_name.table()[code] != labels.table()[code] for code in names)
    return by_name, [f"codes by their names in the file: {describe_names(names)}"] if differ else []


class LabelReader(Protocol):
    """How the label of a case is read. Readers travel to other processes with their case, so they can be pickled."""

    def missing_file(self, label: Path) -> Path | None:
        """Return the first file of the label that does not exist, if any."""

    def names(self, label: Path) -> CodeNames:
        """Return the names that the label file itself gives to its codes; none if its format has no names.

        Raises:
            InputError: If the file cannot be read.
        """

    def read(self, label: Path, image: Volume, labels: LabelMap) -> tuple[np.ndarray, Sequence[str]]:
        """Read the label onto the grid of its scan.

        Args:
            label: File or folder of the label.
            image: The scan.
            labels: What its codes mean, which decides between segments that overlap.

        Returns:
            Codes, uint8, with the shape of the scan, and notes on what reading had to adapt.

        Raises:
            InputError: If the label cannot be read or does not fit the scan.
        """


@dataclass(frozen=True)
class OneFile:
    """A label in one file whose header places it on the scan."""

    def missing_file(self, label: Path) -> Path | None:
        """Return the label if it does not exist."""
        return None if label.exists() else label

    def names(self, label: Path) -> CodeNames:
        """Return the names in the file; see ``LabelReader.names``."""
        return code_names(label)

    def read(self, label: Path, image: Volume, labels: LabelMap) -> tuple[np.ndarray, Sequence[str]]:
        """Read the file; see ``LabelReader.read``. Where segments overlap, a tumour hides the pancreas."""
        volume = read_label(label, like=image, rank=labels.table())
        return volume.array, volume.notes


ONE_FILE = OneFile()


@dataclass(frozen=True)
class ClassFiles:
    """A folder with one mask per class. Where masks overlap, the tumour takes precedence over the pancreas.

    Attributes:
        pancreas: File name of the pancreas mask, which may include the tumour or leave it out.
        tumour: File name of the tumour mask; empty if the data set has none.
    """

    pancreas: str
    tumour: str = ""

    def missing_file(self, label: Path) -> Path | None:
        """Return the first mask that does not exist, if any."""
        return next((path for _, path in self._masks(label) if not path.exists()), None)

    def names(self, label: Path) -> CodeNames:
        """Return no names: the masks are told apart by the names of their files."""
        return {}

    def read(self, label: Path, image: Volume, labels: LabelMap) -> tuple[np.ndarray, Sequence[str]]:
        """Combine the masks to codes 1 and 2; see ``LabelReader.read``."""
        codes = np.zeros(image.array.shape, np.uint8)
        notes: dict[str, None] = {}  # each note once, in order
        for code, path in self._masks(label):
            mask = read_label(path, like=image)
            codes[mask.array > 0] = code
            notes |= dict.fromkeys(mask.notes)
        return codes, tuple(notes)

    def _masks(self, label: Path) -> list[tuple[int, Path]]:
        return [(code, label / name) for code, name in ((PANCREAS, self.pancreas), (TUMOUR, self.tumour)) if name]
