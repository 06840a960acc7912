"""The names that a label file gives to its codes: segmentations of 3D Slicer (NRRD) and of DICOM (SEG).

References:
    3D Slicer, segmentation file format, https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.common.errors import InputError
from data.scans.dicom_seg import find_segmentation, segment_names

CodeNames = Mapping[int, str]  # the name of each code
SEGMENT_FIELD = re.compile(rb"(Segment\d+)_(\w+):=(.*)", re.IGNORECASE)
HEADER_BYTES = 1 << 22  # a header of this length would describe thousands of segments
SAVE_AGAIN = "save the segmentation again with the current version of 3D Slicer, or export it as a labelmap"


def code_names(path: Path) -> CodeNames:
    """Read the names of the codes of a label.

    Args:
        path: A label file in any format, or a folder with one DICOM segmentation.

    Returns:
        The names by code; empty if the file has none.

    Raises:
        InputError: If segments may overlap, a code has two names, or the codes of segments are not stated.
    """
    if segmentation := find_segmentation(path):
        return segment_names(segmentation)
    if path.suffix.lower() == ".nrrd":
        with path.open("rb") as file:
            header = re.split(rb"\r?\n\r?\n", file.read(HEADER_BYTES), maxsplit=1)[0]
        return _slicer_names(path, header.splitlines())
    return {}


def _slicer_names(path: Path, lines: Sequence[bytes]) -> CodeNames:
    segments: dict[bytes, dict[bytes, str]] = {}
    for line in lines:
        if match := SEGMENT_FIELD.fullmatch(line.strip()):
            value = match[3].decode("utf-8", errors="replace").strip()
            segments.setdefault(match[1].lower(), {})[match[2].lower()] = value
    layers = {segment.get(b"layer", "0") for segment in segments.values()}
    if segments and (len(layers) > 1 or any(re.fullmatch(rb"dimension:\s*4\s*", line) for line in lines)):
        problem = "a segmentation of 3D Slicer whose segments overlap in several layers"
        remedy = "export it as a labelmap (in 3D Slicer: Data, the segmentation, Export visible segments to labelmap)"
        raise InputError(path, problem, remedy)
    names: dict[int, str] = {}
    for segment in segments.values():
        name, code = segment.get(b"name", segment.get(b"id", "")), segment.get(b"labelvalue", "")
        if not code.isdecimal():
            raise InputError(path, f'its header does not say which code the segment "{name}" has', SAVE_AGAIN)
        if names.setdefault(int(code), name) != name:
            raise InputError(path, f'its code {code} has two names, "{names[int(code)]}" and "{name}"', SAVE_AGAIN)
    return names
