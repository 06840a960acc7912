"""Public data sets with pancreatic tumours: MSD Task07, PANORAMA, PanTS."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import (
    About,
    Entry,
    absent,
    case_name,
    entry,
    not_there,
    read_dataset_json,
    sorted_by_name,
    visible,
    within,
)
from data.sources.label_map import ClassFiles, LabelMap
from data.sources.tables import TableRow, find_table, read_table, require_columns

UNSAID = ("", "nan", "none")  # an empty cell, and what spreadsheets write for one


class MSD:
    """Task07_Pancreas of the Medical Segmentation Decathlon: 281 labelled CT of one hospital in New York.

    Source: http://medicaldecathlon.com, licence CC BY-SA 4.0. Code 1 is the pancreas, 2 any mass: adenocarcinoma, cyst
    or neuroendocrine tumour. Case numbers have gaps; the archive's ``._*`` files are no scans. Which files make
    the set is read from dataset.json, so that a file that is missing is known by name.
    """

    summary = "Task07_Pancreas of the Medical Segmentation Decathlon, as unpacked"
    about = About(
        "Medical Segmentation Decathlon, Task07_Pancreas",
        "CC BY-SA 4.0",
        "1 pancreas, 2 tumour or cyst",
        "medicaldecathlon.com: Task07_Pancreas.tar",
    )

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        listing = read_dataset_json(root)
        try:
            pairs = [(root / item["image"], root / item["label"]) for item in listing["training"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{root / 'dataset.json'}: lists no training cases; unpack the archive again") from error
        cases = [pair for pair in pairs if not pair[0].name.startswith("._")]
        return sorted_by_name(entry(case_name(image.name), image, label) for image, label in cases)

    def remarks(self, root: Path) -> list[str]:
        return []


@dataclass(frozen=True)
class Panorama:
    """PANORAMA: 2,238 portal-venous CT of 2,224 patients, 676 with adenocarcinoma (PDAC), of the Netherlands mostly.

    Source: https://panorama.grand-challenge.org, licence CC BY-NC 4.0. Images are batches 1 to 4 at Zenodo (records
    13715870, 13742336, 11034011, 10999754), labels and clinical_information.xlsx the repository
    github.com/DIAGNijmegen/panorama_labels; ROOT holds both. Codes: 1 PDAC, 2 veins, 3 arteries, 4 parenchyma,
    5 duct, 6 common bile duct. manual_labels (482) win over automatic_labels (1,756), whose lesions a network drew.

    The table's ``label`` says PDAC or non-PDAC, and a non-PDAC study may have any other lesion, which is not drawn. So
    only PDAC studies are cases here, and the others can only be a pancreas-only centre of their own. Its ``level``
    marks 194 studies of MSD and 80 of NIH, left out as they would leak between centres.

    manual_only: without the lesions that a network drew.
    nested: with the MSD and NIH studies.
    pdac: False takes the non-PDAC studies, pancreas only.
    """

    manual_only: bool = False
    nested: bool = False
    pdac: bool = True

    NESTED = ("MSD_dataset", "NIH_dataset")
    STUDY = re.compile(r"(\d+)_\d+")

    @property
    def kept(self) -> str:
        """Which studies are cases."""
        lesions = " with lesions drawn by hand" if self.manual_only else ""
        nested = ", with those of MSD and NIH" if self.nested else ""
        return (f"PDAC studies{lesions}" if self.pdac else "non-PDAC studies, pancreas only") + nested

    @property
    def summary(self) -> str:
        return f"batch_1 to batch_4, manual_labels, automatic_labels, clinical_information.xlsx (or .csv): {self.kept}"

    @property
    def about(self) -> About:
        return About(
            f"PANORAMA challenge: {self.kept}",
            "CC BY-NC 4.0",
            "1 PDAC, 4 parenchyma, 5 duct (pancreas), 2/3/6 vessels, bile duct",
            "zenodo.org/records/ 13715870, 13742336, 11034011, 10999754; github.com/DIAGNijmegen/panorama_labels",
        )

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse(f"1={2 if self.pdac else 1},2=0,3=0,4=1,5=1,6=0")

    def entries(self, root: Path) -> list[Entry]:
        images = {path.name.removesuffix("_0000.nii.gz"): path for path in within(root, "*_0000.nii.gz", 3)}
        if not images:
            raise absent(root / "batch_1")
        labels = self._labels(root)
        if not images.keys() & labels.keys():
            raise InputError(f"{root}: no label belongs to an image of PANORAMA; are the labels another set's?")
        table = self._table(root)
        chosen = {study: row for study, row in table.items() if not self._reason(study, row, labels)}
        chosen |= {study: {} for study in (images.keys() | labels.keys()) - table.keys()}
        return sorted_by_name(self._entry(root, study, row, images, labels) for study, row in chosen.items())

    def remarks(self, root: Path) -> list[str]:
        labels, counts = self._labels(root), {}
        for study, row in self._table(root).items():
            reason = self._reason(study, row, labels)
            counts[reason] = counts.get(reason, 0) + 1
        return [f"left out: {count} studies, {reason}" for reason, count in counts.items() if reason]

    def _reason(self, study: str, row: TableRow, labels: dict[str, Path]) -> str:
        """Why a study is left out; empty for those kept."""
        if not self.nested and row["level"] in self.NESTED:
            return f"which are of the {row['level'].partition('_')[0]} data set: they would leak between centres"
        if self.pdac and row["label"] != "PDAC":
            return "which are non-PDAC: other lesions are not drawn there, so they are not free of tumours"
        if not self.pdac and row["label"] == "PDAC":
            return "which are PDAC: take them as panorama"
        if self.manual_only and study in labels and labels[study].parent.name != "manual_labels":
            return "whose lesion a network drew"
        return ""

    def _labels(self, root: Path) -> dict[str, Path]:
        """Labels by study; the later, manual ones replace automatic ones."""
        labels: dict[str, Path] = {}
        for name in ("automatic_labels", "manual_labels"):
            folders = [path for path in within(root, name, 2) if path.is_dir()]
            if not folders:
                raise absent(root / name)
            labels |= {path.name.removesuffix(".nii.gz"): path for path in within(folders[0], "*.nii.gz", 0)}
        return labels

    def _table(self, root: Path) -> dict[str, TableRow]:
        folders = [root, *(path.parent for path in within(root, "manual_labels", 2))]
        path = find_table(folders, "clinical_information")
        if path is None:
            why = "it tells the studies of MSD and NIH and those with PDAC"
            raise InputError(f"{root / 'clinical_information.xlsx'}: no such file, and {why}; copy it from the labels")
        rows = read_table(path)
        require_columns(path, rows, "PANORAMA_study_id", "label", "level")
        return {row["PANORAMA_study_id"]: row for row in rows}

    def _entry(self, root: Path, study: str, row: TableRow, images: dict[str, Path], labels: dict[str, Path]) -> Entry:
        match = self.STUDY.fullmatch(study)
        image, label = images.get(study), labels.get(study)
        fault = ""
        if not row:
            fault = f"{image or label}: not in clinical_information, which tells its origin; download the table again"
        elif image is None:
            fault = not_there(root / "batch_1 to batch_4" / f"{study}_0000.nii.gz")
        elif label is None:
            fault = not_there(root / "automatic_labels" / f"{study}.nii.gz")
        drawn = label.parent.name.removesuffix("_labels") if label else ""
        columns = (*row.items(), ("annotation", drawn))
        return Entry(study, match[1] if match else study, image, label, fault, columns, tumour=self.pdac)


class PanTS:
    """PanTS: 9,901 CT of many hospitals, about 1,000 with a pancreatic lesion; one mask a class.

    Source: https://github.com/MrGiovanni/PanTS, licence CC BY-NC-SA 4.0 (non-commercial). Download with its scripts;
    ROOT holds ImageTr, LabelTr, ImageTe, LabelTe and metadata.xlsx. Masks overlap, and the pancreas may or may not
    hold the lesion: their union is the pancreas. There are no patient ids: each scan counts as a patient. The table's
    ``tumor?`` flags some cases (44, told) whose lesion mask is empty; these are faults, as they are not free of tumour.
    So is a case of which the table does not say whether it has one.
    Scans of NIH, MSD and others are among them: column ``site`` tells, and the duplicate check finds them.
    """

    summary = "ImageTr/PanTS_00000001/ct.nii.gz, LabelTr/PanTS_00000001/segmentations/, ImageTe, LabelTe, metadata.xlsx"
    about = About(
        "PanTS, Johns Hopkins University; holds scans of MSD, NIH and others",
        "CC BY-NC-SA 4.0",
        "a file a class: pancreas, pancreatic_lesion",
        "github.com/MrGiovanni/PanTS: download_PanTS_data.sh, download_PanTS_label.sh",
    )
    READER = ClassFiles("pancreas.nii.gz", "pancreatic_lesion.nii.gz")
    SPLIT_PARTS = (("ImageTr", "LabelTr", "train"), ("ImageTe", "LabelTe", "test"))
    CASE = re.compile(r"PanTS_\d{8}")

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        visible(root / self.SPLIT_PARTS[0][0])  # first, so that a wrong or packed ROOT is called that
        table, found = self._table(root), []
        for images, labels, part in self._parts(root):
            sides = [{p.name for p in visible(root / side) if self.CASE.fullmatch(p.name)} for side in (images, labels)]
            if all(sides) and not sides[0] & sides[1]:
                raise InputError(f"{root / labels}: no label belongs to a scan of {images}; are they another set's?")
            for name in sides[0] | sides[1]:
                found.append(self._entry(root, name, (images, labels, part), table.get(name)))
        return sorted_by_name(found)

    def remarks(self, root: Path) -> list[str]:
        lines = []
        for images, labels, _ in self.SPLIT_PARTS[1:]:
            there = tuple((root / side).is_dir() for side in (images, labels))
            if there == (False, True):
                lines.append(f"left out: {labels}, as its scans are not here")
            elif there == (True, False):
                lines.append(f"left out: {images}, as there is no {labels}")
        there = {path.name for sides in self.SPLIT_PARTS for side in sides[:2] for path in root.glob(f"{side}/*")}
        if gone := sorted(self._table(root).keys() - there):
            lines.append(f"{len(gone)} cases of metadata.xlsx have neither image nor label, such as {gone[0]}")
        return lines

    def _parts(self, root: Path) -> list[tuple[str, str, str]]:
        """The training part, which must be there, and the test part where scans and labels were downloaded."""
        whole = [part for part in self.SPLIT_PARTS[1:] if all((root / side).is_dir() for side in part[:2])]
        return [self.SPLIT_PARTS[0], *whole]

    def _entry(self, root: Path, name: str, part: tuple[str, str, str], row: TableRow | None) -> Entry:
        image, label = root / part[0] / name / "ct.nii.gz", root / part[1] / name / "segmentations"
        made = entry(name, image, label, reader=self.READER, columns=(*(row or {}).items(), ("part", part[2])))
        if row is None and not made.fault:
            fault = f"{image.parent}: not in metadata.xlsx, which tells the tumours; download the table again"
            return replace(made, fault=fault)
        if row and row["tumor?"].lower() in UNSAID and not made.fault:
            unsaid = "metadata.xlsx does not say whether it has a tumour (column tumor?)"
            return replace(made, fault=f"{image.parent}: {unsaid}; fill it in, or download the table again")
        return replace(made, tumour=_is_flagged(row))

    def _table(self, root: Path) -> dict[str, TableRow]:
        path = find_table([root], "metadata")
        if path is None:
            why = "without it a tumour that was not drawn would count as none"
            raise InputError(f"{root / 'metadata.xlsx'}: no such file, and {why}; copy it from the download")
        rows = read_table(path)
        require_columns(path, rows, "PanTS ID", "tumor?")
        return {row["PanTS ID"]: row for row in rows}


def _is_flagged(row: TableRow | None) -> bool:
    """The table writes 1, 1.0 or a count; anything that is not plainly a zero, or unsaid, counts as a tumour."""
    return bool(row) and row["tumor?"].lower() not in (*UNSAID, "0", "0.0", "no", "false")
