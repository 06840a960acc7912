"""Data sets of many abdominal organs, of which the pancreas is used: more scans and hospitals for the pancreas stages.

Their labels show no tumours, and nothing says that the patients have none. Their cases are therefore not free of
tumours and are not used in the tumour stages.
"""

import re
from dataclasses import replace
from pathlib import Path

from data.sources.base import (
    About,
    Columns,
    Entry,
    entry_of,
    find_below,
    group_by_case,
    list_folder,
    missing_part,
    pair,
    sorted_by_name,
)
from data.sources.label_map import ClassFiles, LabelMap
from data.sources.tables import find_table, read_table, require_columns


class ManyOrgans:
    """Folders of images and labels in pairs, with one label file per case. The subclasses are data sets.

    Attributes:
        summary: See ``Source.summary``.
        about: See ``Source.about``.
        folders: Pairs of a folder of images and one of labels. The first pair must exist.
        case: Pattern of file names without suffix; group 1 is what an image and its label have in common.
        pancreas: Code of the pancreas.
        last_code: Highest code of the data set.
    """

    summary: str
    about: About
    folders: tuple[tuple[str, str], ...]
    case: re.Pattern[str]
    pancreas: int
    last_code: int

    def codes(self, root: Path) -> LabelMap:
        """Return the map that keeps the pancreas and makes the other organs background."""
        return LabelMap.one_organ(self.pancreas, self.last_code)

    def entries(self, root: Path) -> list[Entry]:
        """Pair the images and labels of every pair of folders that is complete; see ``Source.entries``."""
        entries: list[Entry] = []
        for images, labels in self.folders:
            image_folder, label_folder = root / images, root / labels
            required = (images, labels) == self.folders[0]
            if required or (image_folder.is_dir() and label_folder.is_dir()):
                entries += pair(self._scans(image_folder), self._scans(label_folder), image_folder, label_folder)
        return sorted_by_name(entries)

    def remarks(self, root: Path) -> list[str]:
        """Name the folders of images that have no labels."""
        return [
            f"left out: {images}, because there is no {labels}"
            for images, labels in self.folders[1:]
            if (root / images).is_dir() and not (root / labels).is_dir()
        ]

    def _scans(self, folder: Path) -> dict[str, list[Path]]:
        scans = group_by_case(folder).items()
        return {match[1]: files for name, files in scans if (match := self.case.fullmatch(name))}


class AMOS(ManyOrgans):
    """AMOS 2022: 500 CT and 100 MRI scans of two hospitals in Shenzhen, 15 organs; 300 CT scans have public labels.

    Source: https://amos22.grand-challenge.org, https://zenodo.org/records/7262581 (amos22.zip). According to its
    readme, numbers below 500 are CT scans and the others MRI. The pancreas is code 10 of 15. Sources differ on the
    licence (CC BY 4.0 or CC BY-NC-SA): read the terms that come with the download. The table
    labeled_data_meta_0000_0599.csv, in ROOT or the folder above, adds columns such as Site and Manufacturer's Model
    Name.
    """

    summary = "imagesTr/amos_0001.nii.gz, labelsTr/amos_0001.nii.gz, imagesVa, labelsVa; MRI (from 0500) left out"
    about = About(
        "AMOS 2022, abdominal multi-organ segmentation",
        "research; read its terms (CC BY 4.0 or CC BY-NC-SA)",
        "10 pancreas, 1-15 other organs",
        "zenodo.org/records/7262581: amos22.zip, labeled_data_meta_0000_0599.csv",
    )
    folders = (("imagesTr", "labelsTr"), ("imagesVa", "labelsVa"))
    case = re.compile(r"(amos_\d{4})")
    pancreas, last_code = 10, 15
    FIRST_MRI = 500

    def entries(self, root: Path) -> list[Entry]:
        """List the CT scans; see ``Source.entries``."""
        columns = self._read_columns(root)
        entries = [entry for entry in super().entries(root) if self._number(entry) < self.FIRST_MRI]
        return [replace(entry, columns=columns.get(self._number(entry), ())) for entry in entries]

    def remarks(self, root: Path) -> list[str]:
        """Count the MRI scans, and name the folders of images that have no labels."""
        count = sum(self._number(entry) >= self.FIRST_MRI for entry in super().entries(root))
        mri = [f"left out: {count} cases numbered from {self.FIRST_MRI:04d}, which are MRI scans"] if count else []
        return super().remarks(root) + mri

    def _number(self, entry: Entry) -> int:
        return int(entry.name[-4:])

    def _read_columns(self, root: Path) -> dict[int, Columns]:
        path = find_table([root, root.parent], "labeled_data_meta_0000_0599")
        if path is None:
            return {}
        rows = read_table(path)
        require_columns(path, rows, "amos_id")
        return {int(row["amos_id"]): tuple(row.items()) for row in rows if row["amos_id"].isdigit()}


class BTCV(ManyOrgans):
    """BTCV, "Beyond the Cranial Vault" (MICCAI 2015): 30 labelled CT scans of the abdomen, 13 organs.

    Source: https://www.synapse.org/Synapse:syn3193805 (registration needed), RawData.zip. The pancreas is code 11 of
    13, as reported by several public loaders. Licence: the terms of the challenge (some mirrors state CC BY 4.0).
    """

    summary = "img/img0001.nii.gz, label/label0001.nii.gz (ROOT is RawData/Training)"
    about = About(
        "BTCV, multi-atlas labelling beyond the cranial vault, abdomen",
        "terms of the challenge at Synapse",
        "11 pancreas, 1-13 other organs",
        "synapse.org/Synapse:syn3193805 (registration): RawData.zip",
    )
    folders = (("img", "label"),)
    case = re.compile(r"(?:img|label)(\d{4})")
    pancreas, last_code = 11, 13


class WORD(ManyOrgans):
    """WORD: 150 CT scans of patients before radiotherapy in one hospital (Chengdu), 16 organs; 100/20/30 Tr/Val/Ts.

    Source: https://github.com/HiLab-git/WORD (on request to the authors). The pancreas is code 8 of 16: the order is
    liver, spleen, left and right kidney, stomach, gallbladder, oesophagus, pancreas and so on, as in the tables of the
    paper and in several public loaders. Licence: academic research only, no clinical or commercial use (its readme).
    """

    summary = "imagesTr/word_0002.nii.gz, labelsTr/word_0002.nii.gz, imagesVal, labelsVal, imagesTs, labelsTs"
    about = About(
        "WORD, whole abdominal organs",
        "academic research only",
        "8 pancreas, 1-16 other organs",
        "github.com/HiLab-git/WORD (by request)",
    )
    folders = (("imagesTr", "labelsTr"), ("imagesVal", "labelsVal"), ("imagesTs", "labelsTs"))
    case = re.compile(r"(word_\d{4})")
    pancreas, last_code = 8, 16


class TotalSegmentator:
    """TotalSegmentator CT: 1,228 scans of Basel at 1.5 mm with 117 classes, one mask per class.

    Source: https://zenodo.org/records/10047292 (version 2), licence CC BY 4.0. The scans show any region of the body,
    so the mask of the pancreas is often empty. The table meta.csv (separated by semicolons) adds columns such as
    institute and scanner_model. The labels were made by a network and corrected by hand.
    """

    summary = "s0001/ct.nii.gz, s0001/segmentations/pancreas.nii.gz, meta.csv"
    about = About(
        "TotalSegmentator CT, version 2",
        "CC BY 4.0",
        "one file per class: pancreas; lesions not annotated",
        "zenodo.org/records/10047292: Totalsegmentator_dataset_v201.zip",
    )

    def codes(self, root: Path) -> LabelMap:
        """Return the code that the reader gives to the mask of the pancreas."""
        return LabelMap.parse("1=1")

    def entries(self, root: Path) -> list[Entry]:
        """List the folders of the scans; see ``Source.entries``."""
        folders = [path for path in list_folder(root) if re.fullmatch(r"s\d{4}", path.name)]
        if not folders:
            deeper = find_below(root, "s[0-9][0-9][0-9][0-9]", 2)
            raise missing_part(root / (deeper[0].name if deeper else "s0000"))
        columns, reader = self._read_columns(root), ClassFiles("pancreas.nii.gz")
        return [
            entry_of(
                folder.name,
                folder / "ct.nii.gz",
                folder / "segmentations",
                reader=reader,
                columns=columns.get(folder.name, ()),
            )
            for folder in folders
        ]

    def remarks(self, root: Path) -> list[str]:
        """Return no remarks: nothing is left out."""
        return []

    def _read_columns(self, root: Path) -> dict[str, Columns]:
        path = find_table([root], "meta")
        if path is None:
            return {}
        rows = read_table(path)
        require_columns(path, rows, "image_id")
        return {row["image_id"]: tuple(row.items()) for row in rows}
