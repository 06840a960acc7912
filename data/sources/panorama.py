"""The PANORAMA challenge, in four selections of its studies."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import About, Entry, find_below, missing_file, missing_part, sorted_by_name
from data.sources.label_map import LabelMap
from data.sources.tables import TableRow, find_table, read_table, require_columns

NESTED_LEVELS = ("MSD_dataset", "NIH_dataset")  # values of the column ``level``
STUDY = re.compile(r"(\d+)_\d+")  # patient_study


@dataclass(frozen=True)
class Panorama:
    """PANORAMA: 2,238 portal-venous CT scans of 2,224 patients, 676 with an adenocarcinoma (PDAC), mostly Dutch.

    Source: https://panorama.grand-challenge.org, licence CC BY-NC 4.0. The images are batches 1 to 4 at Zenodo (records
    13715870, 13742336, 11034011, 10999754); the labels and clinical_information.xlsx are in the repository
    github.com/DIAGNijmegen/panorama_labels. ROOT holds both. Codes: 1 PDAC, 2 veins, 3 arteries, 4 parenchyma, 5 duct,
    6 common bile duct. A study in manual_labels (482 studies) takes precedence over the same study in automatic_labels
    (1,756), whose lesions were segmented by a network.

    The table classifies each study as PDAC or non-PDAC. A non-PDAC study may show any other lesion, which is not
    annotated; it is therefore not free of tumours. PDAC studies make a centre with tumours, non-PDAC studies can only
    make a centre of its own for the pancreas. The column ``level`` marks 194 studies of MSD and 80 of NIH. They are
    left out by default, because they would leak between centres.

    Attributes:
        manual_only: Whether studies whose lesion was segmented by a network are left out.
        nested: Whether the studies of MSD and NIH are kept.
        pdac: Whether the PDAC studies are the cases; False selects the non-PDAC studies, for the pancreas only.
    """

    manual_only: bool = False
    nested: bool = False
    pdac: bool = True

    @property
    def selection(self) -> str:
        """The studies that are cases, in words."""
        lesions = " with manually annotated lesions" if self.manual_only else ""
        nested = ", including those of MSD and NIH" if self.nested else ""
        return (f"PDAC studies{lesions}" if self.pdac else "non-PDAC studies, pancreas only") + nested

    @property
    def summary(self) -> str:
        """The layout and the selection; see ``Source.summary``."""
        layout = "batch_1 to batch_4, manual_labels, automatic_labels, clinical_information.xlsx (or .csv)"
        return f"{layout}: {self.selection}"

    @property
    def about(self) -> About:
        """Origin and terms; see ``Source.about``."""
        return About(
            f"PANORAMA challenge: {self.selection}",
            "CC BY-NC 4.0",
            "1 PDAC, 4 parenchyma, 5 duct (pancreas), 2/3/6 vessels, bile duct",
            "zenodo.org/records/ 13715870, 13742336, 11034011, 10999754; github.com/DIAGNijmegen/panorama_labels",
        )

    def codes(self, root: Path) -> LabelMap:
        """Return the documented codes; the PDAC counts as pancreas in a centre of non-PDAC studies."""
        return LabelMap.parse(f"1={2 if self.pdac else 1},2=0,3=0,4=1,5=1,6=0")

    def entries(self, root: Path) -> list[Entry]:
        """List the selected studies; see ``Source.entries``.

        A study that is not in the table is a case with a fault, because its origin is unknown.
        """
        images = {path.name.removesuffix("_0000.nii.gz"): path for path in find_below(root, "*_0000.nii.gz", 3)}
        if not images:
            raise missing_part(root / "batch_1")
        labels = self._find_labels(root)
        if not images.keys() & labels.keys():
            raise InputError(root, "no label belongs to an image", "check that both are those of PANORAMA")
        table = self._read_table(root)
        selected = [study for study, row in table.items() if not self._exclusion(study, row, labels)]
        unlisted = (images.keys() | labels.keys()) - table.keys()
        entries = []
        for study in (*selected, *unlisted):
            image, label, row = images.get(study), labels.get(study), table.get(study, {})
            fault = None
            if study in unlisted:
                problem = "not in clinical_information, which tells the origin and the diagnosis of each study"
                fault = InputError(image or label or root, problem, "get the complete table from the labels repository")
            elif image is None:
                fault = missing_file(root / "batch_1 to batch_4" / f"{study}_0000.nii.gz")
            elif label is None:
                fault = missing_file(root / "automatic_labels" / f"{study}.nii.gz")
            match = STUDY.fullmatch(study)
            entries.append(
                Entry(
                    name=study,
                    patient=match[1] if match else study,
                    image=image,
                    label=label,
                    fault=fault,
                    columns=(*row.items(), ("annotation", label.parent.name.removesuffix("_labels") if label else "")),
                    has_tumour=self.pdac,
                )
            )
        return sorted_by_name(entries)

    def remarks(self, root: Path) -> list[str]:
        """Count the studies left out, by reason."""
        labels = self._find_labels(root)
        counts = Counter(self._exclusion(study, row, labels) for study, row in self._read_table(root).items())
        return [f"left out: {count} studies {reason}" for reason, count in counts.items() if reason]

    def _exclusion(self, study: str, row: TableRow, labels: dict[str, Path]) -> str:
        """Explain why a study is left out; empty if it is selected."""
        if not self.nested and row["level"] in NESTED_LEVELS:
            data_set = row["level"].partition("_")[0]
            return f"of the {data_set} data set, because they would leak between centres"
        if self.pdac and row["label"] != "PDAC":
            return "without PDAC, because other lesions are not annotated, so that they are not free of tumours"
        if not self.pdac and row["label"] == "PDAC":
            return "with PDAC, which are the cases of panorama"
        if self.manual_only and study in labels and labels[study].parent.name != "manual_labels":
            return "whose lesions were segmented by a network"
        return ""

    def _find_labels(self, root: Path) -> dict[str, Path]:
        labels: dict[str, Path] = {}
        for name in ("automatic_labels", "manual_labels"):  # in this order: manual labels replace automatic ones
            folders = [path for path in find_below(root, name, 2) if path.is_dir()]
            if not folders:
                raise missing_part(root / name)
            labels |= {path.name.removesuffix(".nii.gz"): path for path in find_below(folders[0], "*.nii.gz", 0)}
        return labels

    def _read_table(self, root: Path) -> dict[str, TableRow]:
        folders = [root, *(path.parent for path in find_below(root, "manual_labels", 2))]
        path = find_table(folders, "clinical_information")
        if path is None:
            problem = "no such file; it tells which studies are of MSD or NIH and which have a PDAC"
            raise InputError(root / "clinical_information.xlsx", problem, "copy it from the labels repository")
        rows = read_table(path)
        require_columns(path, rows, "PANORAMA_study_id", "label", "level")
        return {row["PANORAMA_study_id"]: row for row in rows}
