"""What is specific to a data set: which files make a case, what its label codes mean, whose scan it is.

A new data set is one class here with ``summary``, ``codes(root)`` and ``entries(root)``, and its line in SOURCES.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data.errors import InputError
from data.integrity import SUFFIXES
from data.volume import Volume, read_image, read_label

OURS = {0: "background", 1: "pancreas", 2: "tumour"}


@dataclass(frozen=True)
class Entry:
    """One case as a data set keeps it. ``fault`` says in one line why it cannot be used, where that is known."""

    name: str
    patient: str
    image: Path | None
    label: Path | None
    fault: str = ""


@dataclass(frozen=True)
class LabelMap:
    """Which of our labels each code of a data set becomes; ``rest`` for all codes not named, None refuses them."""

    codes: tuple[tuple[int, int], ...]
    rest: int | None = None

    @staticmethod
    def parse(text: str) -> "LabelMap":
        """Read ``"10=1,11=2,*=0"``: code of the data set = our label. 0 stays background unless named."""
        codes, rest = {0: 0}, None
        for item in text.split(","):
            match = re.fullmatch(r"\s*(\d+|\*)\s*=\s*([012])\s*", item)
            if not match or (match[1] != "*" and int(match[1]) > 255):
                example = 'write code=label pairs with labels 0, 1 or 2, such as "10=1,*=0"'
                raise InputError(f"--labels {text}: {item.strip() or 'nothing'} is not a pair; {example}")
            if match[1] == "*":
                rest = int(match[2])
            else:
                codes[int(match[1])] = int(match[2])
        return LabelMap(tuple(sorted(codes.items())), rest)

    def __str__(self) -> str:
        return ",".join(
            [f"{code}={label}" for code, label in self.codes] + [f"*={self.rest}"] * (self.rest is not None)
        )

    def apply(self, path: Path, array: np.ndarray) -> np.ndarray:
        """Raw codes (uint8) to labels 0/1/2 (uint8). Raises InputError naming the codes that the map does not know."""
        table = np.full(256, 255 if self.rest is None else self.rest, np.uint8)
        for code, label in self.codes:
            table[code] = label
        present = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
        unknown = present[table[present] == 255]
        if unknown.size:
            named = ", ".join(map(str, unknown))
            remedy = f'say what they are, e.g. --labels "{self},{unknown[0]}=1", or add *=0 for background'
            raise InputError(f"{path}: has label codes {named}, which the map {self} does not know; {remedy}")
        return table[array]


class Source(Protocol):
    """A data set's adapter."""

    summary: str  # for --help

    def codes(self, root: Path) -> LabelMap:
        """What the label codes mean. Raises InputError where only the user can know."""

    def entries(self, root: Path) -> list[Entry]:
        """All cases, sorted by name, with the faults that the file names alone give away."""


class Folder:
    summary = "images/<case>.<ext> or images/<case>/ (DICOM), labels/<case>.<ext>, codes 0/1/2"

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        images = _by_case(root / "images", folders=True)
        return _paired(images, _by_case(root / "labels"), root / "images", root / "labels")


class MSD:
    summary = "Task07_Pancreas of the Medical Segmentation Decathlon, as unpacked"

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        listing = _dataset_json(root)
        try:
            pairs = [(root / item["image"], root / item["label"]) for item in listing["training"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{root / 'dataset.json'}: lists no training cases; unpack the archive again") from error
        cases = [(case_name(image.name), image, label) for image, label in pairs if not image.name.startswith("._")]
        return sorted((Entry(name, name, image, label) for name, image, label in cases), key=lambda e: e.name)


class NnUNet:
    summary = "raw layout of nnU-Net: imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, codes from dataset.json"

    TUMOUR = re.compile(r"(pancrea\w*[ _-]*)?(tumou?r|lesion|cancer)s?", re.IGNORECASE)
    PANCREAS = re.compile(r"pancreas", re.IGNORECASE)

    def codes(self, root: Path) -> LabelMap:
        named = _dataset_json(root).get("labels")
        if not isinstance(named, dict):
            raise InputError(
                f'{root / "dataset.json"}: names no labels; say what the codes mean with --labels "1=1,2=2"'
            )
        if all(str(key).isdigit() for key in named):  # version 1 wrote {"1": "pancreas"}
            named = {name: int(code) for code, name in named.items()}
        pancreas = [code for name, code in named.items() if self.PANCREAS.fullmatch(name)]
        tumour = [code for name, code in named.items() if self.TUMOUR.fullmatch(name)]
        if len(pancreas) != 1 or len(tumour) > 1 or not all(isinstance(c, int) for c in pancreas + tumour):
            which = f"labels {named} do not name one pancreas and at most one tumour"
            raise InputError(f'{root / "dataset.json"}: {which}; say which is which with --labels "1=1,2=2"')
        return LabelMap.parse(",".join([f"{pancreas[0]}=1"] + [f"{code}=2" for code in tumour]))

    def entries(self, root: Path) -> list[Entry]:
        ending = _dataset_json(root).get("file_ending", ".nii.gz")
        images, second = {}, set()
        for path in _files(root / "imagesTr"):
            if match := re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name):
                images.setdefault(match[1], []).extend([path] if match[2] == "0000" else [])
                second |= {match[1]} if match[2] != "0000" else set()
        if second:
            raise InputError(f"{root}: {len(second)} cases have more than one channel; give a data set of CT alone")
        labels = {p.name.removesuffix(ending): [p] for p in _files(root / "labelsTr") if p.name.endswith(ending)}
        return _paired(images, labels, root / "imagesTr", root / "labelsTr")


SOURCES: dict[str, Source] = {"folder": Folder(), "msd": MSD(), "nnunet": NnUNet()}


def load_entry(entry: Entry, labels: LabelMap) -> tuple[Volume, np.ndarray, list[str]]:
    """Read one case: the scan, its label 0/1/2 (uint8, same shape) and what reading had to mend.

    Raises InputError (one line: file, fault, remedy) where the case cannot be used.
    """
    if entry.fault:
        raise InputError(entry.fault)
    try:
        image = read_image(entry.image)
        label = read_label(entry.label, like=image)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file and the disk") from error
    notes = [f"image {note}" for note in image.notes] + [f"label {note}" for note in label.notes]
    return image, labels.apply(entry.label, label.array), notes


def _files(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden files and the ``._*`` that macOS leaves in archives."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check ROOT and the layout that SOURCE expects (--help)")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def case_name(file_name: str) -> str:
    """The file's name without its format's suffix; empty where it is no format we read."""
    suffix = next((s for s in SUFFIXES if file_name.lower().endswith(s)), None)
    return file_name[: -len(suffix)] if suffix else ""


def _by_case(folder: Path, folders: bool = False) -> dict[str, list[Path]]:
    cases: dict[str, list[Path]] = {}
    for path in _files(folder):
        name = path.name * folders if path.is_dir() else case_name(path.name)
        if name:
            cases.setdefault(name, []).append(path)
    return cases


def _paired(images: dict[str, list], labels: dict[str, list], image_place: Path, label_place: Path) -> list[Entry]:
    """One entry per name found on either side."""
    entries = []
    for name in sorted(images.keys() | labels.keys()):
        image, label = images.get(name, []), labels.get(name, [])
        fault = ""
        if not label:
            fault = f"{image[0]}: has no label in {label_place}; add it or take the image away"
        elif not image:
            fault = f"{label[0]}: has no image in {image_place}; add it or take the label away"
        elif len(image) + len(label) > 2:
            both = (image if len(image) > 1 else label)[:2]
            fault = f"{both[0]}: {both[1].name} is the same case; keep one of them"
        entries.append(Entry(name, name, *(next(iter(side), None) for side in (image, label)), fault))
    return entries


def _dataset_json(root: Path) -> dict:
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; ROOT is the folder that holds dataset.json") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); unpack the data set again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a data set's description; unpack the data set again")
    return content
