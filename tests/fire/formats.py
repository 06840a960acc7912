"""Every format of scans as a target: how a whole file is written, what may be done to it, and an independent reader.

A damaged file may be read as it was, or refused. Some formats have no checksum over a part of the file; damage there
that leaves another valid number cannot be noticed by any reader. Such a file may also be read as it is now, if an
independent reader finds the same in it. Nothing else is right.
"""

import gzip
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.random import Generator

from data.scans.volume import Volume
from tests.fire.damage import ANYWHERE, deflate_zeros
from tests.other_readers import Reading, read_metaimage, read_nrrd, read_with_nibabel

SIDE = 30
BOMB_BYTES = 10 << 30
SIZES = (0, -1, 1, 7, 29, 31, 4096, 30000, 32767, 65535, 2**31 - 1, 2**32, 2**63 - 1, 10**30)
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag of a DICOM file


class Damaged(NamedTuple):
    """A damaged file.

    Attributes:
        content: Its bytes.
        how: Name of the damage.
        noticeable: Whether a reader has to notice the damage if it changes anything.
    """

    content: bytes
    how: str
    noticeable: bool = False


@dataclass(frozen=True)
class Kind:
    """A format, or a way of storing voxels in it.

    Attributes:
        suffix: Suffix of the file; empty for a folder of DICOM slices.
        compressed: Whether the voxels are compressed.
        read: Independent reader.
        hit: Name of the file that is damaged, where it is not the one that is read.
        checksum: Whether every byte of the file lies under a checksum.
        bits: Format of the compressed stream as zlib counts it.
    """

    suffix: str
    compressed: bool
    read: Callable[[Path], Reading]
    hit: str = ""
    checksum: bool = False
    bits: int = 0

    def write(self, folder: Path, image: sitk.Image) -> Path:
        """Write an image into a folder, which is emptied; return the path that is given to a reader."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if not self.suffix:
            _write_slices(folder, image, self.compressed)
            return folder
        path = folder / f"scan{self.suffix}"
        sitk.WriteImage(image, str(path), useCompression=self.compressed)
        return path

    def damaged_file(self, folder: Path) -> Path:
        """Return the file in a folder of ``write`` that is damaged."""
        return folder / (self.hit or f"scan{self.suffix}")


def _write_slices(folder: Path, image: sitk.Image, compressed: bool) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    if compressed:
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
    array = sitk.GetArrayFromImage(image)
    array = array if array.dtype == np.uint8 else array.astype(np.int16)  # CT slices hold whole numbers
    axes = "\\".join(f"{v:.9f}" for v in np.array(image.GetDirection()).reshape(3, 3)[:, :2].T.ravel())
    for index in range(image.GetDepth()):
        plane = sitk.GetImageFromArray(array[index : index + 1])
        plane.SetSpacing(image.GetSpacing())
        position = "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, index)))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0008|0018": f"1.2.3.4.{index}"}
        tags |= {"0020|0013": str(index + 1), "0020|0037": axes, "0020|0032": position, "0010|0020": "Ada\nLovelace"}
        # GDCM would write the time at which it writes, and the spacing in some files of a process only.
        tags |= {"0008|0020": "20260101", "0008|0030": "120000", "0018|0088": f"{image.GetSpacing()[2]}"}
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice{index:02d}.dcm"))
        writer.Execute(plane)


def read_slices(folder: Path) -> Reading:
    """Read a folder of DICOM slices with pydicom."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    for s in slices:
        # pydicom needs what other readers take for granted: a CT has no other interpretation, and this is the encoding
        # of files that do not name theirs.
        s.PhotometricInterpretation = "MONOCHROME2"
        if "TransferSyntaxUID" not in s.file_meta:
            s.file_meta.TransferSyntaxUID = s.original_encoding[0] and pydicom.uid.ImplicitVRLittleEndian
    axes = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    slices.sort(key=lambda s: float(np.array(s.ImagePositionPatient, float) @ np.cross(*axes)))
    first, last = (np.array(s.ImagePositionPatient, float) for s in (slices[0], slices[-1]))
    values = [
        s.pixel_array.astype(float) * float(s.get("RescaleSlope", 1)) + float(s.get("RescaleIntercept", 0))
        for s in slices
    ]
    rows, columns = map(float, slices[0].PixelSpacing)
    steps = np.column_stack([axes[0] * columns, axes[1] * rows, (last - first) / (len(slices) - 1), first])
    return Reading(np.array(values), np.vstack([steps, (0, 0, 0, 1)]))


def _read_pair(path: Path) -> Reading:
    """Read a .mhd file with its data file, as one .mha file."""
    head = path.read_bytes()
    name = re.search(rb"ElementDataFile = (\S+)", head)
    assert name
    joined = path.parent / "joined.mha"
    joined.write_bytes(head[: name.start(1)] + b"LOCAL\n" + (path.parent / name[1].decode()).read_bytes())
    return read_metaimage(joined)


KINDS: Mapping[str, Kind] = {
    "nii": Kind(".nii", False, read_with_nibabel),
    "nii.gz": Kind(".nii.gz", True, read_with_nibabel, checksum=True, bits=31),
    "nrrd raw": Kind(".nrrd", False, read_nrrd),
    "nrrd gzip": Kind(".nrrd", True, read_nrrd, bits=31),
    "mha raw": Kind(".mha", False, read_metaimage),
    "mha zlib": Kind(".mha", True, read_metaimage, bits=15),
    "mhd header": Kind(".mhd", False, _read_pair),
    "mhd zlib data": Kind(".mhd", True, _read_pair, hit="scan.zraw", bits=15),
    "dicom": Kind("", False, read_slices, hit="slice07.dcm"),
    "dicom jpeg2000": Kind("", True, read_slices, hit="slice07.dcm"),
}


def make_images(rng: Generator, label: bool) -> tuple[sitk.Image, sitk.Image]:
    """Make an image that is written and damaged, and another of which parts are mixed in.

    Every other pair has the same number of voxels and differs in spacing and position only.
    """
    size = (SIDE - 1, SIDE + 1, SIDE)
    other_size = size if rng.integers(2) else (SIDE, SIDE - 5, SIDE + 2)
    # DICOM images are axial: their directions are those of the patient.
    return (
        _image(rng, size, label, spacing=(0.7, 0.9, 2.5), origin=(-31.5, 17.25, 401.125)),
        _image(rng, other_size, label, spacing=(0.8, 0.8, 3.0), origin=(10.0, -20.0, 30.0)),
    )


def _image(
    rng: Generator, size: tuple[int, int, int], label: bool, spacing: tuple[float, ...], origin: tuple[float, ...]
) -> sitk.Image:
    shape = size[::-1]
    z, y, x = np.indices(shape)
    if label:
        array = ((x // 8 + y // 9 + z // 7) % 3).astype(np.uint8)
    else:
        array = (rng.normal(0, 20, shape) + 40 * (x // 7) - 900 * (y < 4)).astype(np.int16)
        array = array.astype((np.int16, np.int16, np.float32)[int(rng.integers(3))])
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def damage_scan(kind: Kind, content: bytes, other: bytes, rng: Generator, index: int) -> Damaged:
    """Damage the file of a scan; ``index`` chooses how, so that every way has its turn.

    Args:
        kind: Its format.
        content: Its bytes.
        other: The same file of another scan.
        rng: Of the details.
        index: Number of the input.
    """
    ways: dict[str, Callable[[], bytes]] = {name: partial(f, content, rng) for name, f in ANYWHERE.items()}
    ways["joined from two"] = partial(_join, content, other, rng)
    if not kind.hit.endswith("raw"):  # a file of voxels has no header
        ways["hostile sizes"] = partial(_promise_sizes, kind, content, rng)
        ways["header of another"] = partial(_exchange_headers, kind, content, other, rng)
    if kind.bits:
        ways["bomb"] = partial(_bomb, kind, content, rng)
    name = list(ways)[index % len(ways)]
    before_the_checksum = name in ("hostile sizes", "header of another")
    noticeable = name in ("cut short", "bomb") or (kind.checksum and not before_the_checksum)
    return Damaged(ways[name](), name, noticeable)


def _join(content: bytes, other: bytes, rng: Generator) -> bytes:
    """Join the first part of one file with the rest of another, as a download that continued with the wrong file."""
    head, tail = (content, other) if rng.integers(2) else (other, content)
    cut = int(rng.integers(1, min(len(head), len(tail))))
    return head[:cut] + tail[cut:]


def _header_bytes(kind: Kind, content: bytes) -> int:
    if kind.suffix.startswith(".nii"):
        return 352
    if kind.suffix == ".nrrd":
        return content.index(b"\n\n") + 2
    if kind.suffix == ".mha":
        return content.index(b"LOCAL\n") + 6
    if kind.suffix == ".mhd":
        return content.index(b"TransformMatrix")
    return content.index(PIXEL_DATA)


def _exchange_headers(kind: Kind, content: bytes, other: bytes, rng: Generator) -> bytes:
    """Put the header of one file before the voxels of another."""
    head, body = (content, other) if rng.integers(2) else (other, content)
    if kind.suffix == ".nii.gz":
        head, body = gzip.decompress(head), gzip.decompress(body)
    mixed = head[: _header_bytes(kind, head)] + body[_header_bytes(kind, body) :]
    return gzip.compress(mixed, 1) if kind.suffix == ".nii.gz" else mixed


def _promise_sizes(kind: Kind, content: bytes, rng: Generator) -> bytes:
    """Change the sizes in a header: to none, to negative ones, to more than any memory holds."""
    sizes = [int(SIZES[int(rng.integers(len(SIZES)))]) for _ in range(3)]
    sizes = [s if rng.integers(3) else SIDE for s in sizes] if rng.integers(2) else [sizes[0]] * 3
    text = " ".join(map(str, sizes)).encode()
    if kind.suffix == ".nrrd":
        return re.sub(rb"sizes: .*", b"sizes: " + text, content, count=1)
    if kind.suffix in (".mha", ".mhd"):
        return re.sub(rb"DimSize = .*", b"DimSize = " + text, content, count=1)
    if not kind.suffix:
        return _promise_elements(content, rng)
    plain = bytearray(gzip.decompress(content) if kind.compressed else content)
    wrapped = [((s + 2**15) % 2**16) - 2**15 for s in sizes]
    struct.pack_into("<4h", plain, 40, int(rng.choice((0, 3, 3, 3, 4, 7, -3, 32767))), *wrapped)
    return gzip.compress(bytes(plain), 1) if kind.compressed else bytes(plain)


def _promise_elements(content: bytes, rng: Generator) -> bytes:
    """Change samples, rows, columns or bits of a DICOM file, or the length of its pixel data."""
    after = bytearray(content)
    tag = (b"\x28\x00\x02\x00", b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x00\x01", PIXEL_DATA)
    chosen = tag[int(rng.integers(len(tag)))]
    at = content.index(chosen, 132)
    explicit = content[at + 4 : at + 6].isalpha()  # the type of the value is written before its length
    if chosen == PIXEL_DATA:
        length = int(rng.choice((0, 2, 2**16, 2**31, 2**32 - 2, 2**32 - 1)))
        struct.pack_into("<I", after, at + (8 if explicit else 4), length)
    else:
        struct.pack_into("<H", after, at + 8, int(rng.choice((0, 1, 2, 8, 31, 60, 4096, 65535))))
    return bytes(after)


def _bomb(kind: Kind, content: bytes, rng: Generator) -> bytes:
    """Let the compressed voxels unpack to 10 GB; the file grows to about 10 MB, because deflate packs no denser."""
    size = int(rng.choice((BOMB_BYTES, 1 << 26)))
    if kind.suffix == ".nii.gz":
        return deflate_zeros(gzip.decompress(content), size, kind.bits)
    if kind.hit:
        return deflate_zeros(b"", size, kind.bits)
    start = _header_bytes(kind, content)
    body = deflate_zeros(b"", size, kind.bits)
    head = re.sub(rb"CompressedDataSize = \d+", f"CompressedDataSize = {len(body)}".encode(), content[:start])
    return head + body


def as_read(reading: Reading, label: bool) -> Reading:
    """Round and clip the values of an independent reader as ours does."""
    low, high = (0, 255) if label else (-32768, 32767)
    return Reading(np.clip(np.rint(reading.array), low, high), reading.to_world)


def copy_scan(whole: Path, to: Path) -> None:
    """Copy the files of a scan into a folder; what was there is removed."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(whole, to)


def same(volume: Volume, whole: Volume) -> bool:
    """Return whether two volumes have the same voxels in the same place, bit for bit in the voxels."""
    if not np.array_equal(volume.array, whole.array):
        return False
    return bool(np.abs(volume.corners() - whole.corners()).max() < 1e-3)
