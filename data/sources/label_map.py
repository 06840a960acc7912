"""Read the label of a case: what its codes mean, and how its file or files become one array on the scan's grid."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.common.errors import InputError
from data.scans.volume import Volume, read_label

CODES = 256  # codes are uint8
UNKNOWN = 255  # marks codes without a meaning in a table of labels 0, 1 and 2


@dataclass(frozen=True)
class LabelMap:
    """Which of our labels (0 background, 1 pancreas, 2 tumour) each code of a data set becomes.

    Attributes:
        codes: Pairs (code, label).
        rest: The label of all codes that are not named; None if they are refused.
    """

    codes: tuple[tuple[int, int], ...]
    rest: int | None = None

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

    def apply(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Map the codes of a label file to labels.

        Args:
            path: The file, for messages.
            array: Codes, uint8, shape (D, H, W).

        Returns:
            Labels 0/1/2, uint8, of the same shape.

        Raises:
            InputError: If the array holds codes that the map does not name.
        """
        table = np.full(CODES, UNKNOWN if self.rest is None else self.rest, np.uint8)
        for code, label in self.codes:
            table[code] = label
        present = codes_in(array)
        unknown = present[table[present] == UNKNOWN]
        if unknown.size:
            raise InputError(
                path,
                f"it has label codes {', '.join(map(str, unknown))}, which the map {self} does not name",
                "look up their meaning and give a map that names every code: --labels with pairs code=label, where "
                'label 0 is background, 1 pancreas and 2 tumour; the pair "*=0" makes all other codes background',
            )
        labels = np.empty_like(array)
        for plane, mapped in zip(array, labels, strict=True):  # plane by plane, because indexing converts to int64
            mapped[...] = table[plane]
        return labels


class LabelReader(Protocol):
    """How the label of a case is read. Readers travel to other processes with their case, so they can be pickled."""

    def missing_file(self, label: Path) -> Path | None:
        """Return the first file of the label that does not exist, if any."""

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        """Read the label onto the grid of its scan.

        Args:
            label: File or folder of the label.
            image: The scan.

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

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        """Read the file; see ``LabelReader.read``."""
        volume = read_label(label, like=image)
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

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
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
