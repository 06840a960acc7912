"""Data sets in the raw layout of nnU-Net."""

import re
from dataclasses import replace
from pathlib import Path

from data.common.errors import InputError
from data.sources.base import About, Entry, dataset_names, list_folder, pair, read_dataset_json
from data.sources.label_map import LabelMap, map_of_names


class NnUNet:
    """The raw layout of nnU-Net, version 1 or 2; dataset.json tells what the codes mean."""

    summary = "raw layout of nnU-Net: imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, codes from dataset.json"
    about = About("any data set in the raw layout of nnU-Net", "its own", "by name from dataset.json", "-")

    def codes(self, root: Path) -> LabelMap:
        """Return what the names of the labels in dataset.json say.

        Raises:
            InputError: If a name is not known, none is the pancreas, or a name stands for several codes (a region).
        """
        names = dataset_names(root)
        if not names:
            problem = "it does not name single codes from 0 to 255, each of them once"
            remedy = "say what the codes are, with --labels and a pair code=label for each of them"
            raise InputError(root / "dataset.json", problem, remedy)
        return map_of_names(root / "dataset.json", names)

    def entries(self, root: Path) -> list[Entry]:
        """Pair imagesTr and labelsTr; see ``Source.entries``. Images with several channels are refused."""
        description = read_dataset_json(root)
        ending = description.get("file_ending", ".nii.gz")
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
        names = description.get("channel_names") or description.get("modality")
        first = names.get("0") if isinstance(names, dict) else None
        if isinstance(first, str) and not re.search(r"\bct\b|computed", first.lower()):
            problem = f'its dataset.json says that the images are "{first}", not CT'
            raise InputError(
                root / "dataset.json", problem, "give a data set of CT, or correct the name of the channel"
            )
        if several_channels:
            problem = f"{len(several_channels)} cases have more than one channel"
            raise InputError(root, problem, "give a data set whose only channel is CT")
        labels = {p.name.removesuffix(ending): [p] for p in list_folder(label_folder) if p.name.endswith(ending)}
        without_channel = [image_folder / f"{case}{ending}" for case in sorted(labels)]
        if not images and (misnamed := next((path for path in without_channel if path.exists()), None)):
            problem = f"no image here ends in _0000{ending}, as those of nnU-Net do"
            raise InputError(misnamed, problem, "check SOURCE: the files are named as those of msd are")
        names = dataset_names(root)
        entries = pair(images, labels, image_folder, label_folder)
        return [replace(entry, names=names) for entry in entries]

    def remarks(self, root: Path) -> list[str]:
        """Return no remarks: nothing is left out."""
        return []
