"""Ways in which files get damaged, each a small function of the file's bytes and of a seeded generator.

They imitate what happens to files: downloads that stop, bits that flip, sectors that are lost, files that are joined
from two, transfers in text mode, headers that promise too much, and archives that unpack to far more than they should.
"""

import zlib
from collections.abc import Callable, Mapping

from numpy.random import Generator

Damage = Callable[[bytes, Generator], bytes]

SECTOR = 512
ZEROS = 1 << 24  # bytes of zeros in one block of a bomb


def cut_short(content: bytes, rng: Generator) -> bytes:
    """End the file early; in every third case within its last 64 bytes, where a reader has almost all of it."""
    near_the_end = rng.integers(3) == 0
    return content[: len(content) - int(rng.integers(1, 65 if near_the_end else len(content) + 1))]


def flip_bits(content: bytes, rng: Generator) -> bytes:
    """Flip one to eight bits anywhere."""
    return _flip(content, rng, len(content))


def flip_bits_in_front(content: bytes, rng: Generator) -> bytes:
    """Flip one to three bits within the first kilobyte, which holds most headers."""
    return _flip(content, rng, min(len(content), 1024), most=3)


def _flip(content: bytes, rng: Generator, reach: int, most: int = 8) -> bytes:
    after = bytearray(content)
    for _ in range(int(rng.integers(1, most + 1))):
        after[int(rng.integers(reach))] ^= 1 << int(rng.integers(8))
    return bytes(after)


def overwrite_run(content: bytes, rng: Generator) -> bytes:
    """Overwrite a run of 1 to 4096 bytes with zeros, ones or noise."""
    start, length = int(rng.integers(len(content))), int(2 ** rng.uniform(0, 12))
    run = content[start : start + length]
    noise = (bytes(len(run)), b"\xff" * len(run), rng.bytes(len(run)))[int(rng.integers(3))]
    return content[:start] + noise + content[start + len(run) :]


def overwrite_in_front(content: bytes, rng: Generator) -> bytes:
    """Overwrite 1 to 12 bytes within the first kilobyte with noise."""
    start = int(rng.integers(min(len(content), 1024)))
    length = min(int(rng.integers(1, 13)), len(content) - start)
    return content[:start] + rng.bytes(length) + content[start + length :]


def drop_run(content: bytes, rng: Generator) -> bytes:
    """Leave out a run of bytes from the middle, so that everything after it moves."""
    start, length = int(rng.integers(len(content))), int(2 ** rng.uniform(0, 12))
    return content[:start] + content[start + length :]


def repeat_run(content: bytes, rng: Generator) -> bytes:
    """Write a run of bytes twice, as an interrupted copy that was resumed too early does."""
    start, length = int(rng.integers(len(content))), int(2 ** rng.uniform(0, 12))
    return content[: start + length] + content[start:]


def exchange_sectors(content: bytes, rng: Generator) -> bytes:
    """Exchange two blocks of 512 bytes (of less in a small file)."""
    size = min(SECTOR, max(1, len(content) // 4))
    first, second = (int(n) * size for n in rng.choice(len(content) // size, 2, replace=False))
    after = bytearray(content)
    after[first : first + size], after[second : second + size] = (
        content[second : second + size],
        content[first : first + size],
    )
    return bytes(after)


def append_noise(content: bytes, rng: Generator) -> bytes:
    """Add 1 to 4096 bytes at the end: zeros, noise or the beginning of the file again."""
    length = int(2 ** rng.uniform(0, 12))
    return content + (bytes(length), rng.bytes(length), content[:length])[int(rng.integers(3))]


def convert_newlines(content: bytes, rng: Generator) -> bytes:
    """Convert line ends as a transfer in text mode does."""
    before, after = ((b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\r", b"\n"))[int(rng.integers(3))]
    return content.replace(before, after)


ANYWHERE: Mapping[str, Damage] = {
    "cut short": cut_short,
    "bits flipped": flip_bits,
    "header bits flipped": flip_bits_in_front,
    "run overwritten": overwrite_run,
    "header overwritten": overwrite_in_front,
    "run left out": drop_run,
    "run repeated": repeat_run,
    "sectors exchanged": exchange_sectors,
    "bytes appended": append_noise,
    "newlines converted": convert_newlines,
}


def deflate_zeros(head: bytes, size: int, bits: int) -> bytes:
    """Compress ``head`` and about ``size`` zeros behind it, without compressing each of them.

    The stream has no end mark and no checksum: a reader that gets that far has already done the harm.

    Args:
        head: What the stream begins with.
        size: How many zeros follow, at least; deflate needs about a thousandth of it.
        bits: Format as ``zlib.compressobj`` expects it: 31 for gzip, 15 for zlib.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, bits)
    start = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(bytes(ZEROS)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + block * -(-size // ZEROS)
