"""The building blocks of adapters: the description of a case, the interface of an adapter, and helpers to find files.

``data.sources.catalogue`` explains how a new data set is added.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data.common.errors import InputError
from data.scans.bytes import SUFFIXES, refused_suffix
from data.scans.dicom_seg import is_dicom
from data.scans.segments import CodeNames
from data.sources.label_map import ONE_FILE, LabelMap, LabelReader

SEGMENTATION_SUFFIX = ".seg.nrrd"  # 3D Slicer's; the case of p.seg.nrrd is p
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z")
MAX_CODE = 255  # codes are uint8
SHOWN_FOLDERS = 4  # number of folders that a message names
SEARCH_DEPTH = 2  # levels below ROOT that are searched for a part of the layout that is not where it should be

Columns = tuple[tuple[str, str], ...]  # (column, value) of one row of a table


@dataclass(frozen=True)
class Entry:
    """One case of a data set: where its files are and how its label is read.

    Attributes:
        name: Name of the case, unique in the data set and usable as the name of a folder.
        patient: Identifier of the patient. All cases of a patient stay on one side of a split.
        image: The scan, a file or a DICOM folder; None if it is missing.
        label: The label, a file or a folder with one mask per class; None if it is missing.
        fault: Why the case cannot be used, if that is known before its files are read. Without a fault both files
            exist.
        columns: What the data set's table says about the case, such as the scanner or the institute.
        reader: How the label is read.
        series: Which series of a DICOM folder is the scan, as ``--series`` names it; empty for the only one.
        has_tumour: Whether the data set states that the case has a tumour. If its label shows none, the case is
            refused, because it would count as free of tumours.
        names: What the data set calls the codes of its labels (dataset.json), if it does.
    """

    name: str
    patient: str
    image: Path | None
    label: Path | None
    fault: InputError | None = None
    columns: Columns = ()
    reader: LabelReader = ONE_FILE
    has_tumour: bool = False
    series: str = ""
    names: CodeNames = field(default_factory=dict)

    def files(self) -> tuple[Path, Path]:
        """Return the paths of image and label.

        Raises:
            InputError: The fault of the case, if it has one.
        """
        if self.fault is not None:
            raise self.fault
        assert self.image is not None and self.label is not None, f"{self.name}: without a fault both files exist"
        return self.image, self.label


@dataclass(frozen=True)
class About:
    """Where a data set comes from and on what terms, as ``python -m data.prepare --list`` prints it."""

    name: str
    licence: str
    codes: str
    download: str


class Source(Protocol):
    """The adapter of a data set: finds the cases in the folder as downloaded, without reading any voxels."""

    @property
    def summary(self) -> str:
        """The layout of the data set in one line, for ``--help``."""

    @property
    def about(self) -> About:
        """Origin, licence and codes of the data set, for ``--list``."""

    def codes(self, root: Path) -> LabelMap:
        """Return what the codes of the labels mean.

        Raises:
            InputError: If only the user can know.
        """

    def entries(self, root: Path) -> list[Entry]:
        """List all cases, sorted by name, with the faults that can be seen without reading the files.

        Raises:
            InputError: If the folder does not have the layout of this data set.
        """

    def remarks(self, root: Path) -> list[str]:
        """Explain to the user, one line each, which cases ``entries`` leaves out on purpose."""


def list_folder(folder: Path) -> list[Path]:
    """List a folder, sorted, without hidden files and the ``._*`` files that macOS leaves in archives.

    Raises:
        InputError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise missing_part(folder)
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def find_below(root: Path, pattern: str, depth: int) -> list[Path]:
    """Find what matches ``pattern`` in ``root`` or up to ``depth`` levels below, sorted, without anything hidden."""
    found = [path for level in range(depth + 1) for path in root.glob("*/" * level + pattern)]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def packed_archives(folder: Path) -> list[Path]:
    """List the archives in ``folder`` that have not been unpacked into a folder of their name beside them."""
    if not folder.is_dir():
        return []
    archives = []
    for path in list_folder(folder):
        suffix = next((s for s in ARCHIVE_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix and not (folder / path.name[: -len(suffix)]).is_dir():
            archives.append(path)
    return archives


def missing_part(path: Path, kind: str = "folder") -> InputError:
    """Describe why a part of the expected layout is missing, judging by what is there instead.

    Args:
        path: Where the part should be, directly in ROOT.
        kind: "folder" or "file".

    Returns:
        The error to raise.
    """
    root = path.parent
    if path.exists():
        return InputError(path, "it holds no files of this data set", "unpack the data set there")
    if archives := packed_archives(root):
        problem = f"this archive is not unpacked, there is no {path.name} beside it"
        count = f" ({len(archives)} archives in this folder)" if len(archives) > 1 else ""
        return InputError(archives[0], problem, f"unpack it there{count}")
    if places := sorted({found.parent for found in find_below(root, path.name, SEARCH_DEPTH)}):
        if len(places) == 1:
            problem = f"no such {kind}, but {places[0] / path.name} exists"
            return InputError(path, problem, f"give {places[0]} as ROOT")
        names = [str(place.relative_to(root)) for place in places[:SHOWN_FOLDERS]]
        names += ["..."] if len(places) > SHOWN_FOLDERS else []
        problem = f"no such {kind}, but {len(places)} folders have one ({', '.join(names)})"
        return InputError(path, problem, f"give each of them as ROOT of a centre of its own, such as {places[0]}")
    if (root.parent / path.name).exists():
        return InputError(path, f"no such {kind}, but the folder above has one", f"give {root.parent} as ROOT")
    return InputError(path, f"no such {kind}", "check ROOT and the layout of this SOURCE (see --help)")


def missing_file(path: Path) -> InputError:
    """Describe that a file which the data set should have is not there."""
    return InputError(path, "no such file", "download or unpack this part of the data set")


def case_name(file_name: str) -> str:
    """Strip the suffix of a scan format, ``.seg.nrrd`` as one, from a file name; empty if it has none."""
    suffix = next((s for s in (SEGMENTATION_SUFFIX, *SUFFIXES) if file_name.lower().endswith(s)), None)
    return file_name[: -len(suffix)] if suffix else ""


def entry_of(name: str, image: Path, label: Path, *, reader: LabelReader = ONE_FILE, columns: Columns = ()) -> Entry:
    """Describe a case whose paths follow from its name; a missing file becomes its fault. The case is its patient."""
    missing = reader.missing_file(label) if image.exists() else image
    fault = missing_file(missing) if missing else None
    return Entry(name, name, image, label, fault, columns, reader)


def group_by_case(folder: Path, *, dicom: bool = False, labels: bool = False) -> dict[str, list[Path]]:
    """Group the scan files in a folder by the name of their case.

    A file in a format that is recognised but not read stands for a case without any other file, so that the case is
    refused by that name instead of being overlooked.

    Args:
        folder: The folder; other files in it are ignored.
        dicom: Whether sub-folders count as DICOM scans.
        labels: Whether these are labels, so that a DICOM file and a sub-folder with one count as labels.
    """
    cases: dict[str, list[Path]] = {}
    refused: dict[str, list[Path]] = {}
    for path in list_folder(folder):
        if not path.is_dir():
            name = path.stem if labels and path.suffix.lower() == ".dcm" else case_name(path.name)
            if suffix := refused_suffix(path.name):
                refused.setdefault(path.name[: -len(suffix)], [path])
        elif dicom or (labels and any(is_dicom(file) for file in list_folder(path))):
            name = path.name
        else:
            continue
        if name:
            cases.setdefault(name, []).append(path)
    return refused | cases


def pair(
    images: dict[str, list[Path]], labels: dict[str, list[Path]], image_folder: Path, label_folder: Path
) -> list[Entry]:
    """Pair images and labels by the name of their case.

    Args:
        images: Images by case.
        labels: Labels by case.
        image_folder: Where the images come from, for messages.
        label_folder: Where the labels come from, for messages.

    Returns:
        One entry per name that either side has, sorted. A missing or doubled side is its fault.

    Raises:
        InputError: If both sides have names, but none in common.
    """
    if images and labels and not images.keys() & labels.keys():
        examples = f"images such as {min(images)}, labels such as {min(labels)}"
        problem = f"no label belongs to an image of {image_folder} ({examples})"
        raise InputError(label_folder, problem, "check that both are of the same data set")
    entries = []
    for name in sorted(images.keys() | labels.keys()):
        image, label = images.get(name, []), labels.get(name, [])
        fault = None
        if not label:
            fault = InputError(image[0], f"it has no label in {label_folder}", "add the label, or remove the image")
        elif not image:
            fault = InputError(label[0], f"it has no image in {image_folder}", "add the image, or remove the label")
        elif len(image) + len(label) > 2:
            first, second = (image if len(image) > 1 else label)[:2]
            fault = InputError(first, f"{second.name} is the same case", "keep one of them")
        entries.append(Entry(name, name, image[0] if image else None, label[0] if label else None, fault))
    return entries


def sorted_by_name(entries: Iterable[Entry]) -> list[Entry]:
    """Sort cases by name."""
    return sorted(entries, key=lambda entry: entry.name)


def read_dataset_json(root: Path) -> dict:
    """Read ROOT/dataset.json of MSD and nnU-Net.

    Raises:
        InputError: If the file is missing or does not hold the description of a data set.
    """
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing_part(path, "file") from error
    except ValueError as error:
        raise InputError(path, f"not readable as JSON ({error})", "unpack the data set again") from error
    if not isinstance(content, dict):
        raise InputError(path, "it does not describe a data set", "unpack the data set again")
    return content


def dataset_names(root: Path) -> CodeNames:
    """Return the names of the label codes in ROOT/dataset.json.

    They are ``{"1": "pancreas"}`` in version 1 of the format (and in MSD), ``{"pancreas": 1}`` in version 2.

    Returns:
        The names by code; empty if there are none, or they do not name single codes from 0 to 255.

    Raises:
        InputError: If the file is missing or does not hold the description of a data set.
    """
    labels = read_dataset_json(root).get("labels")
    if not isinstance(labels, dict):
        return {}
    if all(str(key).isdecimal() for key in labels):
        labels = {name: int(code) for code, name in labels.items() if isinstance(name, str)}
    codes = list(labels.values())
    single = all(type(code) is int and 0 <= code <= MAX_CODE for code in codes) and len(set(codes)) == len(codes)
    return {code: name for name, code in labels.items()} if single else {}
