"""Independent readers to compare ours with: nibabel, and two small ones for NRRD and MetaImage files."""

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data.scans.volume import Volume

POSITION_TOLERANCE_MM = 0.05  # the two spacings of a NIfTI header may differ by a thousandth


class Reading(NamedTuple):
    """What an independent reader finds in a file."""

    array: np.ndarray  # (z, y, x), in the order of the file
    to_world: np.ndarray  # (4, 4), from voxel indices (x, y, z, 1) to LPS positions in mm


def read_with_nibabel(path: Path) -> Reading:
    image = nib.load(path)
    return Reading(np.asarray(image.dataobj).T, np.diag((-1, -1, 1, 1)) @ image.affine)


def read_nrrd(path: Path) -> Reading:
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"^([^#:\n]+):=? ?(.*)$", head.decode("latin-1").lower(), re.MULTILINE))
    signs = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1)}[fields["space"]]
    vectors = [*re.findall(r"\(([^)]*)\)", fields["space directions"]), fields["space origin"].strip("()")]
    columns = np.array([[float(number) for number in vector.split(",")] for vector in vectors]).T
    body = zlib.decompressobj(31).decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    kind = {"short": "i2", "unsigned char": "u1", "ushort": "u2", "unsigned short": "u2", "float": "f4"}[fields["type"]]
    order = {"little": "<", "big": ">"}[fields.get("endian", "little")]
    return Reading(_to_array(body, order + kind, fields["sizes"]), np.vstack([np.diag(signs) @ columns, (0, 0, 0, 1)]))


def read_metaimage(path: Path) -> Reading:
    head, _, body = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = dict(re.findall(r"^(\w+) = (.*)$", head.decode("latin-1"), re.MULTILINE))
    values = {key: [float(n) for n in fields[key].split()] for key in ("TransformMatrix", "ElementSpacing", "Offset")}
    axes = np.array(values["TransformMatrix"]).reshape(3, 3).T * values["ElementSpacing"]
    body = zlib.decompress(body) if fields.get("CompressedData", "False").lower() == "true" else body
    kind = {"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_UCHAR": "u1", "MET_FLOAT": "f4"}[fields["ElementType"]]
    order = "<" if kind == "u1" else {"true": ">", "false": "<"}[fields["BinaryDataByteOrderMSB"].lower()]
    to_world = np.vstack([np.column_stack([axes, values["Offset"]]), (0, 0, 0, 1)])
    return Reading(_to_array(body, order + kind, fields["DimSize"]), to_world)


def _to_array(body: bytes, kind: str, sizes: str) -> np.ndarray:
    return np.frombuffer(body, kind).reshape([int(n) for n in reversed(sizes.split())])


def agrees(volume: Volume, reading: Reading) -> bool:
    """Return True if the independent reader finds every voxel of the volume, with its value, at its position."""
    index = np.indices(volume.array.shape).reshape(3, -1)[::-1]
    steps = np.array(volume.direction).reshape(3, 3) * volume.spacing[::-1]
    world = steps @ index + np.array(volume.origin)[:, None]
    index_there = (np.linalg.inv(reading.to_world) @ np.vstack([world, np.ones(world.shape[1])]))[:3]
    nearest = np.rint(index_there).astype(int)
    distance = np.abs(reading.to_world[:3, :3] @ (index_there - nearest)).max()
    x, y, z = nearest
    inside = all((n >= 0).all() and (n < size).all() for n, size in zip((z, y, x), reading.array.shape, strict=True))
    return inside and distance < POSITION_TOLERANCE_MM and np.array_equal(reading.array[z, y, x], volume.array.ravel())
