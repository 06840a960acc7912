"""Sets of many organs, of which the pancreas is taken: more scans and hospitals for the pancreas stages.

Their labels draw no tumour, and nothing says that there is none: they are no tumour-free scans.
"""

import re
from dataclasses import replace
from pathlib import Path

from data.sources.base import About, Columns, Entry, absent, by_case, entry, paired, sorted_by_name, visible, within
from data.sources.label_map import ClassFiles, LabelMap
from data.sources.tables import find_table, read_table, require_columns


class ManyOrgans:
    """Image and label folders in pairs, one label map a case. A set says its folders, its case names and its codes."""

    summary: str
    about: About
    folders: tuple[tuple[str, str], ...]  # images, labels; the first pair must be there
    case: re.Pattern  # of a case's file, without its suffix; group 1 is what image and label have in common
    pancreas: int
    last_code: int

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.one_organ(self.pancreas, self.last_code)

    def entries(self, root: Path) -> list[Entry]:
        found = []
        for images, labels in self.folders:
            places = root / images, root / labels
            if (images, labels) == self.folders[0] or all(place.is_dir() for place in places):
                found += paired(*map(self._cases, places), *places)
        return sorted_by_name(found)

    def remarks(self, root: Path) -> list[str]:
        unlabelled = [pair for pair in self.folders[1:] if (root / pair[0]).is_dir() and not (root / pair[1]).is_dir()]
        return [f"left out: {images}, as there is no {labels}" for images, labels in unlabelled]

    def _cases(self, folder: Path) -> dict[str, list[Path]]:
        return {match[1]: files for name, files in by_case(folder).items() if (match := self.case.fullmatch(name))}


class AMOS(ManyOrgans):
    """AMOS 2022: 500 CT and 100 MRI of two hospitals in Shenzhen, 15 organs; 300 CT of them with public labels.

    Source: https://amos22.grand-challenge.org, https://zenodo.org/records/7262581 (amos22.zip). Its readme says that
    numbers below 500 are CT, the others MRI. Pancreas is code 10 of 15. Licence: told as CC BY 4.0 or CC BY-NC-SA;
    read the terms that come with the download. labeled_data_meta_0000_0599.csv, beside
    or in ROOT's parent, gives columns such as Site and Manufacturer's Model Name.
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
        columns = self._columns(root)
        cases = [e for e in super().entries(root) if self._number(e) < self.FIRST_MRI]
        return [replace(e, columns=columns.get(self._number(e), ())) for e in cases]

    def remarks(self, root: Path) -> list[str]:
        count = sum(self._number(e) >= self.FIRST_MRI for e in super().entries(root))
        mri = [f"left out: {count} cases numbered from {self.FIRST_MRI:04d}, which are MRI"] if count else []
        return super().remarks(root) + mri

    def _number(self, entry: Entry) -> int:
        return int(entry.name[-4:])

    def _columns(self, root: Path) -> dict[int, Columns]:
        path = find_table([root, root.parent], "labeled_data_meta_0000_0599")
        if path is None:
            return {}
        rows = read_table(path)
        require_columns(path, rows, "amos_id")
        return {int(row["amos_id"]): tuple(row.items()) for row in rows if row["amos_id"].isdigit()}


class BTCV(ManyOrgans):
    """BTCV, "Beyond the Cranial Vault" (MICCAI 2015): 30 labelled CT of the abdomen, 13 organs.

    Source: https://www.synapse.org/Synapse:syn3193805 (registration), RawData.zip. Pancreas is code 11 of 13, told by
    many public readers of it. Licence: the challenge's own terms (some mirrors say CC BY 4.0: told).
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
    """WORD: 150 CT of patients before radiotherapy in one hospital (Chengdu), 16 organs; 100/20/30 Tr/Val/Ts.

    Source: https://github.com/HiLab-git/WORD (by request to the authors). Pancreas is code 8 of 16: liver, spleen, left
    and right kidney, stomach, gallbladder, oesophagus, pancreas ... in the order of public readers and of the paper's
    tables (told). Licence: academic research only, no clinical or commercial use (its readme).
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
    """TotalSegmentator CT: 1,228 scans of Basel at 1.5 mm, 117 classes, one mask a class.

    Source: https://zenodo.org/records/10047292 (version 2), licence CC BY 4.0. Any region of the body: in many scans
    the pancreas' mask is empty. meta.csv (separated by semicolons) gives columns such as institute and scanner_model.
    Labels were made by a network and corrected.
    """

    summary = "s0001/ct.nii.gz, s0001/segmentations/pancreas.nii.gz, meta.csv"
    about = About(
        "TotalSegmentator CT, version 2",
        "CC BY 4.0",
        "a file a class: pancreas; lesions not drawn",
        "zenodo.org/records/10047292: Totalsegmentator_dataset_v201.zip",
    )

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1")

    def entries(self, root: Path) -> list[Entry]:
        folders = [path for path in visible(root) if re.fullmatch(r"s\d{4}", path.name)]
        if not folders:
            deeper = within(root, "s[0-9][0-9][0-9][0-9]", 2)
            raise absent(root / (deeper[0].name if deeper else "s0000"))
        columns, reader = self._columns(root), ClassFiles("pancreas.nii.gz")
        return [
            entry(p.name, p / "ct.nii.gz", p / "segmentations", reader=reader, columns=columns.get(p.name, ()))
            for p in folders
        ]

    def remarks(self, root: Path) -> list[str]:
        return []

    def _columns(self, root: Path) -> dict[str, Columns]:
        path = find_table([root], "meta")
        if path is None:
            return {}
        rows = read_table(path)
        require_columns(path, rows, "image_id")
        return {row["image_id"]: tuple(row.items()) for row in rows}
