"""Is a scan file whole? Checked on its bytes before any library reads it.

The reader underneath (SimpleITK) turns a truncated or damaged NIfTI file into zeros without an error, and NaN
into 0, which is water. So the stream is decompressed to its end here (which also checks its CRC), its length is
compared with what the header promises, and floating point voxels are checked to be finite. A file must hold
exactly three axes of plain numbers: a fourth axis is refused even where its length is 1.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.common.errors import InputError
from data.scans.headers import AGAIN, check_meta, check_nifti, check_nrrd

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
CHUNK = 1 << 24
BLANKS = " \t\r\n"  # ITK knows no others
NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
META_TYPES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}
META_TYPES |= {"LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8}
NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "ulonglong", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}


class Layout(NamedTuple):
    """What a header promises about the data that follow it."""

    sizes: tuple[int, ...]
    item: str  # numpy type with byte order; only its size matters where it starts with V
    offset: int  # where the data start in the (decompressed) stream

    @property
    def data_bytes(self) -> int:
        return int(np.prod(self.sizes, dtype=object)) * np.dtype(self.item).itemsize


def suffix_of(path: Path) -> str:
    """The format's suffix (``.nii.gz`` counts as one), or an InputError naming the formats that are read."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: not a known scan format; give {', '.join(SUFFIXES)} or a folder of DICOM slices")


def check_kind(path: Path) -> bytes:
    """Refuse by its first bytes what is no scan at all; returns these bytes.

    Raises InputError for a missing or empty file, a web page, a Git-LFS or git-annex pointer, the ``._*`` files
    that macOS leaves in archives, and a zip archive.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}; check the path")
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise InputError(f"{path}: the file is empty; {AGAIN}")
    if head.startswith(b"\x00\x05\x16\x07") or path.name.startswith("._"):
        raise InputError(f"{path}: macOS bookkeeping (._*), not a scan; delete it")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise InputError(f"{path}: a web page, not a scan (a download that needed a login?); {AGAIN}")
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a Git-LFS pointer, not the scan itself; run git lfs pull where it came from")
    if b"annex/objects/" in head:
        raise InputError(f"{path}: a git-annex pointer, not the scan itself; run git annex get where it came from")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: a zip archive, not a scan; unpack it")
    return head


def check_file(path: Path) -> None:
    """Raise InputError unless the file is a whole, three-dimensional scan with finite voxels (module docstring)."""
    head, suffix = check_kind(path), suffix_of(path)
    packed = head.startswith(b"\x1f\x8b")
    if packed != (suffix == ".nii.gz"):
        is_, rename = ("gzip-compressed", "name it .nii.gz") if packed else ("not gzip-compressed", "name it .nii")
        raise InputError(f"{path}: {is_}, which its name does not say; {rename} if it is NIfTI, else {AGAIN}")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            if suffix in (".nii", ".nii.gz"):
                layout = _nifti_layout(path, file)
                _check_data(path, _chunks(file), layout)
            elif suffix == ".nrrd":
                _check_nrrd(path, file)
            else:
                _check_meta(path, file)
    except EOFError as error:
        raise InputError(f"{path}: truncated, the compressed data end early; {AGAIN}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged, the compressed data do not unpack ({error}); {AGAIN}") from error
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{path}: its header makes no sense ({error}); {AGAIN}") from error


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _inflated(file: BinaryIO, zlib_bits: int) -> Iterator[bytes]:
    """The decompressed pieces of a zlib (15) or gzip (31) stream, which must be complete."""
    inflater = zlib.decompressobj(zlib_bits)
    for chunk in _chunks(file):
        yield inflater.decompress(chunk)
        if inflater.eof:
            return
    raise EOFError


def _check_data(path: Path, chunks: Iterator[bytes], layout: Layout) -> None:
    """Run through the data: as long as promised, and finite where they are floating point."""
    if len(layout.sizes) != 3 or min(layout.sizes) < 1:
        shape = " x ".join(map(str, layout.sizes))
        raise InputError(f"{path}: has {len(layout.sizes)} axes ({shape}), not 3; save one 3-D volume per file")
    length, rest, item = 0, b"", np.dtype(layout.item)
    for chunk in chunks:
        length += len(chunk)
        if item.kind == "f":
            whole = rest + chunk
            cut = len(whole) - len(whole) % item.itemsize
            rest = whole[cut:]
            if not np.isfinite(np.frombuffer(whole[:cut], item)).all():
                raise InputError(f"{path}: has voxels that are not numbers (NaN or Inf); replace them or export again")
    if length != layout.data_bytes:
        what = "truncated" if length < layout.data_bytes else "damaged"
        promised = f"holds {length} bytes of voxels where its header promises {layout.data_bytes}"
        raise InputError(f"{path}: {what}, {promised}; {AGAIN}")


def _nifti_layout(path: Path, file: BinaryIO) -> Layout:
    """Read a NIfTI-1 header (https://nifti.nimh.nih.gov/nifti-1) and leave ``file`` at the first voxel."""
    head = file.read(348)
    order = "<" if head[:4] == struct.pack("<i", 348) else ">"
    if len(head) < 348:
        raise InputError(f"{path}: truncated, ends within its header; {AGAIN}")
    if head[4:7] in (b"n+2", b"ni2"):
        raise InputError(f"{path}: NIfTI-2 is not read; save it as NIfTI-1")
    if head[:4] != struct.pack(order + "i", 348) or head[344:348] != b"n+1\0":
        raise InputError(f"{path}: not a NIfTI-1 file by its first bytes; {AGAIN}, or name it by what it is")
    dims = struct.unpack(order + "8h", head[40:56])
    (code,) = struct.unpack(order + "h", head[70:72])
    (offset,) = struct.unpack(order + "f", head[108:112])
    if code not in NIFTI_TYPES:
        raise InputError(f"{path}: its voxels are not plain numbers (NIfTI type {code}); export it as int16 or float32")
    if not 1 <= dims[0] <= 7:
        raise InputError(f"{path}: its header promises {dims[0]} axes; {AGAIN}")
    if not (offset >= 352 and offset.is_integer()):
        raise InputError(f"{path}: its header says that its voxels start within the header ({offset:g}); {AGAIN}")
    layout = Layout(dims[1 : 1 + dims[0]], order + NIFTI_TYPES[code], int(offset))
    if len(layout.sizes) == 3:
        check_nifti(path, head, order, layout.sizes)
    file.seek(layout.offset)
    return layout


def _check_nrrd(path: Path, file: BinaryIO) -> None:
    """NRRD with its data in the same file, raw or gzip (https://teem.sourceforge.net/nrrd/format.html)."""
    if not file.readline().startswith(b"NRRD"):
        raise InputError(f"{path}: not an NRRD file by its first bytes; {AGAIN}, or name it by what it is")
    fields = {}
    while line := file.readline().decode("latin-1").strip(BLANKS):
        key, _, value = line.partition(":")
        fields[key.strip(BLANKS).lower()] = value.lstrip("=").strip(BLANKS).lower()
    if {"data file", "datafile", "line skip", "byte skip"} & set(fields):
        raise InputError(f"{path}: keeps its data elsewhere or after a gap; save it as one plain .nrrd file")
    packed = fields.get("encoding") in ("gzip", "gz")
    if not packed and fields.get("encoding") != "raw":
        raise InputError(f"{path}: NRRD encoding {fields.get('encoding')} is not read; save it as raw or gzip")
    if fields.get("type") not in NRRD_TYPES:
        raise InputError(f"{path}: its voxels are not plain numbers (NRRD type {fields.get('type')}); export as int16")
    layout = Layout(tuple(map(int, fields.get("sizes", "").split())), f"V{NRRD_TYPES[fields['type']]}", file.tell())
    if len(layout.sizes) == 3:
        check_nrrd(path, fields, NRRD_TYPES[fields["type"]])
    _check_data(path, _inflated(file, 31) if packed else _chunks(file), layout)


def _check_meta(path: Path, file: BinaryIO) -> None:
    """MetaImage: .mha, or .mhd with one data file beside it, raw or zlib (https://itk.org/Wiki/ITK/MetaIO)."""
    fields, line = {}, ""
    while "ElementDataFile" not in fields:
        line = file.readline(4096).decode("latin-1")
        key, equals, value = line.partition("=")
        if not equals:
            raise InputError(f"{path}: not a whole MetaImage header; {AGAIN}, or name it by what it is")
        fields[key.strip(BLANKS)] = value.strip(BLANKS)
    kind = fields.get("ElementType", "").removeprefix("MET_")
    if kind not in META_TYPES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(f"{path}: its voxels are not plain numbers (ElementType {kind}); export it as int16")
    layout = Layout(tuple(map(int, fields.get("DimSize", "").split())), f"V{META_TYPES[kind]}", file.tell())
    packed = fields.get("CompressedData", "False").lower() == "true"
    inside = fields["ElementDataFile"] == "LOCAL"
    data, start = (path, layout.offset) if inside else (path.parent / fields["ElementDataFile"], 0)
    if not data.is_file():
        raise InputError(f"{path}: its data file {data.name} is not beside it; copy both")
    if len(layout.sizes) == 3:
        check_meta(path, fields, META_TYPES[kind], data.stat().st_size - start)
    with data.open("rb") as voxels:
        voxels.seek(start)
        _check_data(data, _inflated(voxels, 15) if packed else _chunks(voxels), layout)
