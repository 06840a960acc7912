"""Medical Segmentation Decathlon, Task07_Pancreas."""

from dataclasses import replace
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import (
    About,
    Entry,
    case_name,
    dataset_names,
    entry_of,
    read_dataset_json,
    sorted_by_name,
)
from data.sources.label_map import LabelMap, map_of_names


class MSD:
    """Task07_Pancreas of the Medical Segmentation Decathlon: 281 labelled CT scans of one hospital in New York.

    Source: http://medicaldecathlon.com, licence CC BY-SA 4.0. Code 1 is the pancreas; code 2 is any mass:
    adenocarcinoma, cyst or neuroendocrine tumour. Case numbers have gaps, and the ``._*`` files of the archive
    are not scans. The cases are those that dataset.json lists, so that a missing file is noticed.
    """

    summary = "Task07_Pancreas of the Medical Segmentation Decathlon, as unpacked"
    about = About(
        "Medical Segmentation Decathlon, Task07_Pancreas",
        "CC BY-SA 4.0",
        "1 pancreas, 2 tumour or cyst",
        "medicaldecathlon.com: Task07_Pancreas.tar",
    )

    def codes(self, root: Path) -> LabelMap:
        """Return what dataset.json says, or the documented codes if it names none."""
        names = dataset_names(root)
        return map_of_names(root / "dataset.json", names) if names else LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        """List the training cases of dataset.json; see ``Source.entries``."""
        try:
            pairs = [(root / item["image"], root / item["label"]) for item in read_dataset_json(root)["training"]]
        except (KeyError, TypeError) as error:
            problem = "it does not list the training cases"
            raise InputError(root / "dataset.json", problem, "unpack the archive again") from error
        scans = [(image, label) for image, label in pairs if not image.name.startswith("._")]
        names = dataset_names(root)
        entries = [entry_of(case_name(image.name), image, label) for image, label in scans]
        return sorted_by_name(replace(entry, names=names) for entry in entries)

    def remarks(self, root: Path) -> list[str]:
        """Return no remarks: nothing is left out."""
        return []
