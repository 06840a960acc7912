"""Words and tools that all data sets share: a case as its files lie there, and finding, pairing and missing files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data.common.errors import InputError
from data.scans.bytes import SUFFIXES
from data.sources.label_map import ONE_FILE, LabelMap, LabelReader

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z")
NAMED = 4  # folders in a message
Columns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Entry:
    """One case as a data set keeps it.

    fault: says in one line why it cannot be used, where that is known before reading.
    columns: what the data set's table says of the case (scanner, institute ...), as (column, value).
    reader: how its label is read.
    tumour: the data set says that there is one; a label that draws none is then a fault, not a healthy case.
    """

    name: str
    patient: str
    image: Path | None
    label: Path | None
    fault: str = ""
    columns: Columns = ()
    reader: LabelReader = ONE_FILE
    tumour: bool = False


@dataclass(frozen=True)
class About:
    """Where a data set comes from and on what terms, for ``python -m data.prepare --list``."""

    source: str
    licence: str
    codes: str
    download: str


class Source(Protocol):
    """A data set's adapter."""

    summary: str  # its layout, for --help
    about: About

    def codes(self, root: Path) -> LabelMap:
        """What the label codes mean. Raises InputError where only the user can know."""

    def entries(self, root: Path) -> list[Entry]:
        """All cases, sorted by name, with the faults that the file names alone give away."""

    def remarks(self, root: Path) -> list[str]:
        """What ``entries`` leaves out on purpose, and why: one line each, for the user to read."""


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and the ``._*`` that macOS leaves in archives."""
    if not folder.is_dir():
        raise absent(folder)
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def within(root: Path, pattern: str, depth: int) -> list[Path]:
    """What matches ``pattern`` in ``root`` or up to ``depth`` folders below; hidden files and folders left out."""
    found = [path for level in range(depth + 1) for path in root.glob("*/" * level + pattern)]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def packed(folder: Path) -> list[Path]:
    """Archives in ``folder`` that have no folder of their name beside them."""
    if not folder.is_dir():
        return []
    stems = {path: next((s for s in ARCHIVES if path.name.lower().endswith(s)), "") for path in visible(folder)}
    return [path for path, end in stems.items() if end and not (folder / path.name[: -len(end)]).is_dir()]


def absent(path: Path, kind: str = "folder") -> InputError:
    """The error for a part of the layout that is not there, with what there is instead."""
    root = path.parent
    if path.exists():
        return InputError(f"{path}: nothing of the data set is in it; download it again")
    if archives := packed(root):
        more = f" ({len(archives)} archives there)" if len(archives) > 1 else ""
        return InputError(f"{archives[0]}: not unpacked, and there is no {path.name} beside it; unpack it there{more}")
    if places := sorted({found.parent for found in within(root, path.name, 2)}):
        if len(places) > 1:
            names = [str(place.relative_to(root)) for place in places[:NAMED]] + ["..."] * (len(places) > NAMED)
            each = f"give each as ROOT, one centre each, such as {places[0]}"
            return InputError(
                f"{path}: no such {kind}, but {len(places)} folders have one ({', '.join(names)}); {each}"
            )
        return InputError(f"{path}: no such {kind}, but {places[0] / path.name} is there; give {places[0]} as ROOT")
    if (root.parent / path.name).exists():
        return InputError(f"{path}: no such {kind}, but one floor up there is; give {root.parent} as ROOT")
    return InputError(f"{path}: no such {kind}; check ROOT and the layout that SOURCE expects (--help)")


def case_name(file_name: str) -> str:
    """The file's name without its format's suffix; empty where it is no format we read."""
    suffix = next((s for s in SUFFIXES if file_name.lower().endswith(s)), None)
    return file_name[: -len(suffix)] if suffix else ""


def not_there(path: Path) -> str:
    """The fault of a case whose file is missing."""
    return f"{path}: no such file; download or unpack that part again"


def entry(name: str, image: Path, label: Path, *, patient: str = "", reader: LabelReader = ONE_FILE, **more) -> Entry:
    """An entry of files known by name; a missing one is its fault."""
    gone = reader.missing(label) if image.exists() else image
    return Entry(name, patient or name, image, label, not_there(gone) if gone else "", reader=reader, **more)


def by_case(folder: Path, folders: bool = False) -> dict[str, list[Path]]:
    """Scan files by case name; with ``folders`` also the (DICOM) folders."""
    cases: dict[str, list[Path]] = {}
    for path in visible(folder):
        name = path.name * folders if path.is_dir() else case_name(path.name)
        if name:
            cases.setdefault(name, []).append(path)
    return cases


def paired(images: dict[str, list], labels: dict[str, list], image_place: Path, label_place: Path) -> list[Entry]:
    """One entry per name found on either side. Raises InputError where both have names and share none."""
    if images and labels and not images.keys() & labels.keys():
        example = f"{min(images)} there, {min(labels)} here"
        raise InputError(f"{label_place}: no label belongs to an image of {image_place} ({example}); another set's?")
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


def sorted_by_name(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: e.name)


def read_dataset_json(root: Path) -> dict:
    """ROOT/dataset.json of MSD and nnU-Net."""
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if packed(root) or within(root, path.name, 2) or (root.parent / path.name).exists():
            raise absent(path, "file") from error
        raise InputError(f"{path}: no such file; ROOT is the folder that holds dataset.json") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); unpack the data set again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a data set's description; unpack the data set again")
    return content
