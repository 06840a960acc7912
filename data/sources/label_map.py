"""What the codes of a label mean, and how the label files of one case become one array of codes on its scan's grid."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.common.errors import InputError
from data.scans.volume import Volume, read_label


@dataclass(frozen=True)
class LabelMap:
    """Which of our labels each code of a data set becomes; ``rest`` for all codes not named, None refuses them."""

    codes: tuple[tuple[int, int], ...]
    rest: int | None = None

    @staticmethod
    def parse(text: str) -> "LabelMap":
        """Parse ``"10=1,11=2,*=0"``, pairs of a code of the data set and one of our labels.

        The code 0 stays background unless it is named; ``*`` stands for all codes that are not named.

        Raises:
            ValueError: If a part of the text is not such a pair.
        """
        codes, rest = {0: 0}, None
        for item in text.split(","):
            match = re.fullmatch(r"\s*(\d+|\*)\s*=\s*([012])\s*", item)
            if not match or (match[1] != "*" and int(match[1]) > 255):
                raise ValueError(f'"{item.strip()}" is not a pair code=label')
            if match[1] == "*":
                rest = int(match[2])
            else:
                codes[int(match[1])] = int(match[2])
        return LabelMap(tuple(sorted(codes.items())), rest)

    @staticmethod
    def one_organ(pancreas: int, last: int) -> "LabelMap":
        """Codes 1 to ``last`` of a set of many organs; a code beyond is another set's and refused."""
        return LabelMap(tuple((code, int(code == pancreas)) for code in range(last + 1)))

    def __str__(self) -> str:
        return ",".join(
            [f"{code}={label}" for code, label in self.codes] + [f"*={self.rest}"] * (self.rest is not None)
        )

    @property
    def gives_tumour(self) -> bool:
        """Whether any code becomes our tumour."""
        return self.rest == TUMOUR or any(label == TUMOUR for _, label in self.codes)

    def apply(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Raw codes (uint8) to labels 0/1/2 (uint8). Raises InputError naming the codes that the map does not know."""
        table = np.full(256, 255 if self.rest is None else self.rest, np.uint8)
        for code, label in self.codes:
            table[code] = label
        present = codes_in(array)
        unknown = present[table[present] == 255]
        if unknown.size:
            named = ", ".join(map(str, unknown))
            remedy = f'say what they are, e.g. --labels "{self},{unknown[0]}=1", or add *=0 for background'
            raise InputError(f"{path}: has label codes {named}, which the map {self} does not know; {remedy}")
        labels = np.empty_like(array)
        for plane, mapped in zip(array, labels, strict=True):  # looking up widens as counting does
            mapped[...] = table[plane]
        return labels


class LabelReader(Protocol):
    """How the label of a case is read; hashable and picklable, as it travels with the case to other processes."""

    def missing(self, label: Path) -> Path | None:
        """The first file of the label that is not there."""

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        """Codes (uint8, the shape of ``image``) and what reading had to mend. Raises InputError as read_label does."""


@dataclass(frozen=True)
class OneFile:
    """A label map in one file, placed by its header."""

    def missing(self, label: Path) -> Path | None:
        return None if label.exists() else label

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        volume = read_label(label, like=image)
        return volume.array, volume.notes


ONE_FILE = OneFile()


@dataclass(frozen=True)
class ClassFiles:
    """A folder with one mask a class. Masks may overlap: where the tumour is, it wins, inside the organ or not."""

    pancreas: str
    tumour: str = ""

    def files(self, label: Path) -> list[tuple[int, Path]]:
        return [(code, label / name) for code, name in ((PANCREAS, self.pancreas), (TUMOUR, self.tumour)) if name]

    def missing(self, label: Path) -> Path | None:
        return next((path for _, path in self.files(label) if not path.exists()), None)

    def read(self, label: Path, image: Volume) -> tuple[np.ndarray, Sequence[str]]:
        codes, notes = np.zeros(image.array.shape, np.uint8), {}
        for code, path in self.files(label):
            mask = read_label(path, like=image)  # rounds 1.00000006 to 1, which says the same as > 0.5
            codes[mask.array > 0] = code
            notes |= dict.fromkeys(mask.notes)
        return codes, tuple(notes)
