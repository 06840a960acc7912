"""The catalogue of data sets that can be read, and the one function that reads a case of any of them.

A new data set is one class in a file of its own in this folder, and one line in ``SOURCES``. The class says which files
make a case (``entries``), what its label codes mean (``codes``), where it comes from (``about``) and how it is laid out
(``summary``); ``data.sources.base.Source`` documents each. For a set with images and labels of equal names this is::

    class Liver:  # its docstring documents the source, the licence and the codes
        summary = "scans/<case>.nii.gz, masks/<case>.nii.gz"
        about = About("Liver-CT", "CC BY 4.0", "1 liver, 2 pancreas", "liver-ct.org: all.zip")

        def codes(self, root: Path) -> LabelMap:
            return LabelMap.parse("1=0,2=1")  # code=label with 0 background, 1 pancreas, 2 tumour

        def entries(self, root: Path) -> list[Entry]:
            scans, masks = root / "scans", root / "masks"
            return pair(group_by_case(scans), group_by_case(masks), scans, masks)

        def remarks(self, root: Path) -> list[str]:
            return []  # one line for the user about every group of cases that entries leaves out

    SOURCES = {..., "liver": Liver()}

``python -m data.prepare liver ROOT --centre NAME`` then prepares it. ``data.sources.msd`` is the shortest real example,
``data.sources.panorama`` one with a table and a selection of cases. A miniature of the new set in
``tests/miniatures.py`` is tested from the download to a training step, as those of the other sets are.
"""

from pathlib import Path

import numpy as np

from data.cases.labels import TUMOUR, codes_in
from data.common.errors import InputError
from data.common.text import format_row, wrap_words
from data.scans.volume import Volume, read_image
from data.sources.base import Entry, Source, packed_archives
from data.sources.folder import Folder
from data.sources.label_map import LabelMap, settle_map
from data.sources.msd import MSD
from data.sources.nih import NIH
from data.sources.nnunet import NnUNet
from data.sources.organs import AMOS, BTCV, WORD, TotalSegmentator
from data.sources.panorama import Panorama
from data.sources.pants import PanTS

SOURCES: dict[str, Source] = {
    "folder": Folder(),
    "nnunet": NnUNet(),
    "msd": MSD(),
    "nih": NIH(),
    "panorama": Panorama(),
    "panorama-manual": Panorama(manual_only=True),
    "panorama-all": Panorama(nested=True),
    "panorama-pancreas": Panorama(pdac=False),
    "pants": PanTS(),
    "amos": AMOS(),
    "btcv": BTCV(),
    "word": WORD(),
    "totalsegmentator": TotalSegmentator(),
}

LAYOUT_WIDTHS = (19, 98)  # of the columns of the layouts, characters
LISTING_WIDTHS = (17, 32, 18, 28, 48)  # of the columns of the listing, characters


def load_entry(entry: Entry, labels: LabelMap, *, accept: bool = False) -> tuple[Volume, np.ndarray, list[str]]:
    """Read one case.

    Args:
        entry: The case.
        labels: What its label codes mean, unless the label file itself names them.
        accept: Whether to follow a map that the user has given even if it contradicts the names in the file.

    Returns:
        The scan, its label (uint8 0/1/2, same shape), and notes on what reading had to adapt.

    Raises:
        InputError: If the case has a fault, its files cannot be read, or its label contradicts the data set.
    """
    image_path, label_path = entry.files()
    try:
        image = read_image(image_path, entry.series)
        own, name_notes = settle_map(label_path, entry.reader.names(label_path), labels, accept=accept)
        codes, label_notes = entry.reader.read(label_path, image, own)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror})"
        raise InputError(error.filename or image_path, problem, "check its permissions and the disk") from error
    label = own.apply(label_path, codes)
    if entry.has_tumour and labels.gives_tumour and TUMOUR not in codes_in(label):
        problem = f"the data set states that case {entry.name} has a tumour, but its label shows none"
        raise InputError(label_path, problem, "leave the case out, because it is not free of tumours")
    return (
        image,
        label,
        [f"image {note}" for note in image.notes] + [f"label {note}" for note in (*name_notes, *label_notes)],
    )


def remarks(source: str, root: Path) -> list[str]:
    """Collect what the user should know about a data set: cases left out on purpose, and archives still packed.

    Args:
        source: Name of the data set in SOURCES.
        root: Its folder.

    Returns:
        One line per remark.
    """
    lines = SOURCES[source].remarks(root)
    if archives := packed_archives(root):
        example = archives[0] if len(archives) == 1 else f"{len(archives)} archives such as {archives[0]}"
        pronoun = "is not unpacked; unpack it" if len(archives) == 1 else "are not unpacked; unpack them"
        lines.append(f"{example} {pronoun} if cases are missing")
    return lines


def layouts() -> str:
    """Format the layout of every source as a table, for ``--help``."""
    lines = [(f"  {name}", source.summary) for name, source in SOURCES.items()]
    return "\n".join(
        format_row([[name], wrap_words(summary, LAYOUT_WIDTHS[1])], LAYOUT_WIDTHS) for name, summary in lines
    )


def listing() -> str:
    """Format all sources as a table: where each comes from, its licence, its codes and how to download it."""
    lines = [("SOURCE", "data set", "licence", "codes", "download")]
    for name, source in SOURCES.items():
        about = source.about
        lines.append((name, about.name, about.licence, about.codes, about.download))
    return "\n\n".join(
        format_row([wrap_words(*cell) for cell in zip(line, LISTING_WIDTHS, strict=True)], LISTING_WIDTHS)
        for line in lines
    )
