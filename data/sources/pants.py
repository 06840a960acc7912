"""PanTS, the Pancreatic Tumour Segmentation data set of Johns Hopkins University."""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from data.common.errors import InputError
from data.sources.base import About, Entry, entry_of, list_folder, sorted_by_name
from data.sources.label_map import ClassFiles, LabelMap
from data.sources.tables import TableRow, find_table, read_table, require_columns


class SplitPart(NamedTuple):
    """One part of the published split: its folders of images and labels, and its name."""

    images: str
    labels: str
    name: str


TRAINING, TEST = SplitPart("ImageTr", "LabelTr", "train"), SplitPart("ImageTe", "LabelTe", "test")
CASE = re.compile(r"PanTS_\d{8}")
MASKS = ClassFiles("pancreas.nii.gz", "pancreatic_lesion.nii.gz")
# Values of the column ``tumor?``: it is 1, 1.0 or a count for a tumour.
UNKNOWN = ("", "nan", "none")  # an empty cell, and what spreadsheet programs write for one
NO_TUMOUR = ("0", "0.0", "no", "false")


class PanTS:
    """PanTS: 9,901 CT scans of many hospitals, about 1,000 of them with a pancreatic lesion; one mask per class.

    Source: https://github.com/MrGiovanni/PanTS, whose scripts download it, licence CC BY-NC-SA 4.0 (non-commercial).
    ROOT holds ImageTr, LabelTr, ImageTe, LabelTe and metadata.xlsx. The masks overlap, and that of the pancreas may
    include the lesion or leave it out; their union is the pancreas. There are no patient identifiers, so every scan
    counts as a patient. Scans of NIH, MSD and others are among them: the column ``site`` names their origin, and the
    search for duplicates finds them.

    The column ``tumor?`` flags some cases (reportedly 44) whose lesion mask is empty. They are refused when they are
    read, because they are not free of tumours. Cases for which the table does not say have a fault.
    """

    summary = "ImageTr/PanTS_00000001/ct.nii.gz, LabelTr/PanTS_00000001/segmentations/, ImageTe, LabelTe, metadata.xlsx"
    about = About(
        "PanTS, Johns Hopkins University; holds scans of MSD, NIH and others",
        "CC BY-NC-SA 4.0",
        "one file per class: pancreas, pancreatic_lesion",
        "github.com/MrGiovanni/PanTS: download_PanTS_data.sh, download_PanTS_label.sh",
    )

    def codes(self, root: Path) -> LabelMap:
        """Return the codes that the reader gives to the masks."""
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        """List the training cases, and the test cases if both folders are there; see ``Source.entries``."""
        list_folder(root / TRAINING.images)  # before the table, so that a wrong ROOT is reported as that
        table, entries = self._read_table(root), []
        for part in (TRAINING, TEST):
            image_folder, label_folder = root / part.images, root / part.labels
            if part is TEST and not (image_folder.is_dir() and label_folder.is_dir()):
                continue
            images, labels = (
                {path.name for path in list_folder(folder) if CASE.fullmatch(path.name)}
                for folder in (image_folder, label_folder)
            )
            if images and labels and not images & labels:
                problem = f"no label belongs to a scan of {part.images}"
                raise InputError(label_folder, problem, "check that both are of the same download")
            entries += [self._entry(root, part, name, table.get(name)) for name in images | labels]
        return sorted_by_name(entries)

    def remarks(self, root: Path) -> list[str]:
        """Say whether half of the test part is missing, and how many cases of the table are."""
        lines = []
        has_images, has_labels = (root / TEST.images).is_dir(), (root / TEST.labels).is_dir()
        if has_labels and not has_images:
            lines.append(f"left out: {TEST.labels}, because its scans are missing")
        elif has_images and not has_labels:
            lines.append(f"left out: {TEST.images}, because there is no {TEST.labels}")
        folders = [folder for part in (TRAINING, TEST) for folder in (part.images, part.labels)]
        present = {path.name for folder in folders for path in root.glob(f"{folder}/*")}
        if absent := sorted(self._read_table(root).keys() - present):
            lines.append(f"{len(absent)} cases of metadata.xlsx have neither image nor label, such as {absent[0]}")
        return lines

    def _entry(self, root: Path, part: SplitPart, name: str, row: TableRow | None) -> Entry:
        image = root / part.images / name / "ct.nii.gz"
        label = root / part.labels / name / "segmentations"
        columns = (*(row or {}).items(), ("part", part.name))
        entry = entry_of(name, image, label, reader=MASKS, columns=columns)
        problem = ""
        if row is None:
            problem = "not in metadata.xlsx, which tells which cases have a tumour"
        elif row["tumor?"].lower() in UNKNOWN:
            problem = "metadata.xlsx does not say whether it has a tumour (column tumor?)"
        if problem and not entry.fault:
            remedy = "get the complete table, or fill it in"
            return replace(entry, fault=InputError(image.parent, problem, remedy))
        return replace(entry, has_tumour=row is not None and row["tumor?"].lower() not in (*UNKNOWN, *NO_TUMOUR))

    def _read_table(self, root: Path) -> dict[str, TableRow]:
        path = find_table([root], "metadata")
        if path is None:
            problem = "no such file; without it a scan whose tumour was not annotated would count as free of tumours"
            raise InputError(root / "metadata.xlsx", problem, "copy it from the download")
        rows = read_table(path)
        require_columns(path, rows, "PanTS ID", "tumor?")
        return {row["PanTS ID"]: row for row in rows}
