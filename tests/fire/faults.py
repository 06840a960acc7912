"""Failing file operations: which kinds there are, and how a process is made to meet them.

The library ``faults.c`` stands between a process and the C library, so it reaches what Python cannot patch: the
writers of torch, numpy and ITK. It needs a C compiler and Linux.
"""

import ctypes
import errno
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

WRITE, CREATE, MOVE, LOOK = 1, 2, 4, 8  # as in faults.c


@dataclass(frozen=True)
class Fault:
    """A way in which a disk fails.

    Attributes:
        kinds: Operations that fail.
        number: The error that they fail with.
        once: Whether only one operation fails, and not all that follow as well.
    """

    kinds: int
    number: int
    once: bool = False

    def text(self, folder: Path, operation: int) -> str:
        """Return the value of FAULT that makes this operation in the folder fail; number 0 only counts."""
        return f"{self.kinds} {operation} {self.number} {int(self.once)} {folder}"


FAULTS = {
    "disk full": Fault(WRITE | CREATE, errno.ENOSPC),
    "quota used up": Fault(WRITE | CREATE, errno.EDQUOT),
    "read-only": Fault(CREATE | MOVE, errno.EROFS),
    "vanished mount": Fault(WRITE | CREATE | MOVE | LOOK, errno.ESTALE),
    "one write lost": Fault(WRITE, errno.EIO, once=True),
}


@functools.cache
def build_library() -> Path | None:
    """Compile the library; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or os.uname().sysname != "Linux":
        return None
    library = Path(tempfile.mkdtemp()) / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def arm(text: str) -> None:
    """Make this process, which has loaded the library, and those that it starts meet a fault."""
    os.environ["FAULT"] = text
    ctypes.CDLL(None).fault_arm()


def count() -> int:
    """Return how many operations of the armed kinds this process has made."""
    counter = ctypes.CDLL(None).fault_count
    counter.restype = ctypes.c_long
    return counter()
