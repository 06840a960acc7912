"""Readers of other hands, so that a test need not believe ours: nibabel, and two small ones for text headers."""

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data.scans.volume import Volume

CORNER_MM = 0.05  # spacings that are said twice may differ by a thousandth


class Told(NamedTuple):
    """What a file says to another reader: its array (z, y, x) and where its voxels lie: LPS world = to_world @ xyz1."""

    array: np.ndarray
    to_world: np.ndarray  # (4, 4)


def told_by_nibabel(path: Path) -> Told:
    image = nib.load(path)
    return Told(np.asarray(image.dataobj).T, np.diag((-1, -1, 1, 1)) @ image.affine)


def told_by_nrrd(path: Path) -> Told:
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"^([^#:\n]+):=? ?(.*)$", head.decode("latin-1").lower(), re.MULTILINE))
    signs = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1)}[fields["space"]]
    vectors = [*re.findall(r"\(([^)]*)\)", fields["space directions"]), fields["space origin"].strip("()")]
    columns = np.array([[float(number) for number in vector.split(",")] for vector in vectors]).T
    body = zlib.decompressobj(31).decompress(body) if fields["encoding"] in ("gzip", "gz") else body
    kind = {"short": "i2", "unsigned char": "u1", "ushort": "u2", "unsigned short": "u2"}[fields["type"]]
    order = {"little": "<", "big": ">"}[fields.get("endian", "little")]
    return Told(_shaped(body, order + kind, fields["sizes"]), np.vstack([np.diag(signs) @ columns, (0, 0, 0, 1)]))


def told_by_meta(path: Path) -> Told:
    head, _, body = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = dict(re.findall(r"^(\w+) = (.*)$", head.decode("latin-1"), re.MULTILINE))
    values = {key: [float(n) for n in fields[key].split()] for key in ("TransformMatrix", "ElementSpacing", "Offset")}
    axes = np.array(values["TransformMatrix"]).reshape(3, 3).T * values["ElementSpacing"]
    body = zlib.decompress(body) if fields.get("CompressedData", "False").lower() == "true" else body
    kind = {"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_UCHAR": "u1"}[fields["ElementType"]]
    order = "<" if kind == "u1" else {"true": ">", "false": "<"}[fields["BinaryDataByteOrderMSB"].lower()]
    to_world = np.vstack([np.column_stack([axes, values["Offset"]]), (0, 0, 0, 1)])
    return Told(_shaped(body, order + kind, fields["DimSize"]), to_world)


def _shaped(body: bytes, kind: str, sizes: str) -> np.ndarray:
    return np.frombuffer(body, kind).reshape([int(n) for n in reversed(sizes.split())])


def as_told(volume: Volume, told: Told) -> bool:
    """Every voxel of the volume is the one that the other reader finds at its place."""
    index = np.indices(volume.array.shape).reshape(3, -1)[::-1]
    steps = np.array(volume.direction).reshape(3, 3) * volume.spacing[::-1]
    world = steps @ index + np.array(volume.origin)[:, None]
    there = (np.linalg.inv(told.to_world) @ np.vstack([world, np.ones(world.shape[1])]))[:3]
    nearest = np.rint(there).astype(int)
    off = np.abs(told.to_world[:3, :3] @ (there - nearest)).max()
    x, y, z = nearest
    inside = all((n >= 0).all() and (n < size).all() for n, size in zip((z, y, x), told.array.shape, strict=True))
    return inside and off < CORNER_MM and np.array_equal(told.array[z, y, x], volume.array.ravel())
