"""What the bytes of a DICOM slice's pixel data tell before GDCM decodes them.

GDCM fills pixel data that are too short with zeros, and reserves whatever memory a damaged length asks for. Lengths are
therefore compared with the file and with the header first.
"""

import struct
from io import BufferedIOBase

PIXEL_DATA = (0x7FE0, 0x0010)
ITEM, END_OF_ITEMS = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
UNDEFINED = 0xFFFFFFFF  # length of compressed pixel data, which consist of items
LONG_KINDS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
JPEG_2000 = b"\xff\x4f\xff\x51"  # first bytes of an image
JPEG_2000_SIZE = struct.Struct(">4s4xIIII")  # those bytes, then length and kind; width, height and their offsets


def check_pixel_data(file: BufferedIOBase, syntax: str, size: tuple[int, int], voxel_bytes: int) -> None:
    """Check that pixel data are all there.

    Args:
        file: The DICOM file, at the element that holds the pixel data.
        syntax: UID of its transfer syntax. Nothing is checked if the whole file is compressed (deflate).
        size: Columns and rows.
        voxel_bytes: Bytes of a voxel before compression.

    Raises:
        ValueError: If there are no pixel data, they are not as long as they should be, or what follows is damaged.
    """
    if syntax == DEFLATED:
        return
    order = ">" if syntax == BIG_ENDIAN else "<"
    tag, length = _read_element(file, order)
    if tag != PIXEL_DATA:
        raise ValueError("no pixel data")
    if length == UNDEFINED:
        _check_items(file, size)
    else:
        promised = size[0] * size[1] * voxel_bytes
        if not promised <= length <= promised + promised % 2 or length > _rest(file):
            raise ValueError(f"{length} bytes of pixel data, {promised} promised")
        file.seek(length, 1)
    while _rest(file) >= 8:  # what follows, such as padding or a signature, is read by GDCM, too
        tag, length = _read_element(file, order)
        if (tag, length) == ((0, 0), 0) and not any(file.read()):  # zeros that fill the last block of a medium
            return
        if length == UNDEFINED:  # a sequence
            return
        if tag <= PIXEL_DATA or length > _rest(file):
            raise ValueError("damaged after the pixel data")
        file.seek(length, 1)


def _read_element(file: BufferedIOBase, order: str) -> tuple[tuple[int, int], int]:
    """Read the tag of an element and the length of its value, before which it leaves the file."""
    group, element, kind = struct.unpack(f"{order}HH2s", _read(file, 6))
    if not kind.isalpha():  # the kind of value is not written out
        (length,) = struct.unpack(f"{order}I", kind + _read(file, 2))
    elif kind in LONG_KINDS:
        _, length = struct.unpack(f"{order}HI", _read(file, 6))
    else:
        (length,) = struct.unpack(f"{order}H", _read(file, 2))
    return (group, element), length


def _check_items(file: BufferedIOBase, size: tuple[int, int]) -> None:
    """Go through the items of compressed pixel data to their end."""
    count = 0
    while True:
        group, element, length = struct.unpack("<HHI", _read(file, 8))
        if (group, element) == END_OF_ITEMS and count > 1:
            return
        if (group, element) != ITEM or length > _rest(file):
            raise ValueError("damaged items of pixel data")
        start = file.tell()
        if count == 1 and length >= JPEG_2000_SIZE.size:  # the first item is a table
            mark, width, height, left, top = JPEG_2000_SIZE.unpack(_read(file, JPEG_2000_SIZE.size))
            if mark == JPEG_2000 and (width - left, height - top) != size:
                raise ValueError(f"pixel data of {width - left} x {height - top}")
        file.seek(start + length)
        count += 1


def _read(file: BufferedIOBase, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("truncated")
    return content


def _rest(file: BufferedIOBase) -> int:
    """Return how many bytes are left in a file."""
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    return end - here
