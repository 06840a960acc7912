"""Data sets in the raw layout of nnU-Net."""

import re
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import About, Entry, list_folder, pair, read_dataset_json
from data.sources.label_map import CODES, LabelMap

# Names of labels. The tumour's may go with the organ's ("pancreatic lesion"), but not with another organ's.
PANCREAS_NAME = re.compile(r"pancreas", re.IGNORECASE)
TUMOUR_NAME = re.compile(r"(pancrea\w*[ _-]*)?(tumou?r|lesion|cancer)s?", re.IGNORECASE)


class NnUNet:
    """The raw layout of nnU-Net, version 1 or 2; dataset.json tells what the codes mean."""

    summary = "raw layout of nnU-Net: imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, codes from dataset.json"
    about = About("any data set in the raw layout of nnU-Net", "its own", "by name from dataset.json", "-")

    def codes(self, root: Path) -> LabelMap:
        """Find pancreas and tumour among the labels that dataset.json names.

        Raises:
            InputError: If the names are not those of one pancreas and at most one tumour.
        """
        path, remedy = root / "dataset.json", 'say what the codes mean, such as --labels "1=1,2=2"'
        labels = read_dataset_json(root).get("labels")
        if not isinstance(labels, dict):
            raise InputError(path, "it names no labels", remedy)
        if all(str(key).isdigit() for key in labels):  # version 1: {"1": "pancreas"}; version 2: {"pancreas": 1}
            labels = {str(name): int(code) for code, name in labels.items()}
        pancreas = [code for name, code in labels.items() if PANCREAS_NAME.fullmatch(name)]
        tumour = [code for name, code in labels.items() if TUMOUR_NAME.fullmatch(name)]
        codes = [*pancreas, *tumour]
        readable = all(isinstance(code, int) and 0 <= code < CODES for code in codes)
        if len(pancreas) != 1 or len(tumour) > 1 or not readable:
            problem = f"its labels {labels} do not name one pancreas and at most one tumour by a code from 0 to 255"
            raise InputError(path, problem, remedy)
        return LabelMap.parse(",".join([f"{pancreas[0]}=1"] + [f"{code}=2" for code in tumour]))

    def entries(self, root: Path) -> list[Entry]:
        """Pair imagesTr and labelsTr; see ``Source.entries``. Images with several channels are refused."""
        ending = read_dataset_json(root).get("file_ending", ".nii.gz")
        image_folder, label_folder = root / "imagesTr", root / "labelsTr"
        images: dict[str, list[Path]] = {}
        several_channels = set()
        for path in list_folder(image_folder):
            if match := re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name):
                case, channel = match[1], match[2]
                files = images.setdefault(case, [])
                if channel == "0000":
                    files.append(path)
                else:
                    several_channels.add(case)
        if several_channels:
            problem = f"{len(several_channels)} cases have more than one channel"
            raise InputError(root, problem, "give a data set whose only channel is CT")
        labels = {p.name.removesuffix(ending): [p] for p in list_folder(label_folder) if p.name.endswith(ending)}
        without_channel = [image_folder / f"{case}{ending}" for case in sorted(labels)]
        if not images and (misnamed := next((path for path in without_channel if path.exists()), None)):
            problem = f"no image here ends in _0000{ending}, as those of nnU-Net do"
            raise InputError(misnamed, problem, "check SOURCE: the files are named as those of msd are")
        return pair(images, labels, image_folder, label_folder)

    def remarks(self, root: Path) -> list[str]:
        """Return no remarks: nothing is left out."""
        return []
