"""Where a prepared case came from: recorded in its manifest, so that the same files are known again."""

import hashlib
from pathlib import Path

from data.common.errors import InputError
from data.sources.catalogue import Entry
from data.sources.centres import Centre


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder: of the content, as copying changes dates but not scans."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        if file.is_file():
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
    return digest.hexdigest()


def stat_signature(path: Path) -> str:
    """Size and date of a file, or of all files of a folder: while these stay, the content is taken to stay."""
    stats = [file.stat() for file in (path.iterdir() if path.is_dir() else [path])]
    size, changed = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    return f"{len(stats)} files, {size} bytes, {changed}"


def source_of(entry: Entry, centre: Centre, earlier: dict) -> dict[str, str]:
    """The manifest's record of where a case came from. Files that look as they did earlier are not read again."""
    if entry.fault:
        raise InputError(entry.fault)
    files = {}
    for kind, path in (("image", entry.image), ("label", entry.label)):
        try:
            seen = {kind: str(path), f"{kind}_seen": stat_signature(path)}
            same = all(earlier.get(key) == value for key, value in seen.items())
            files |= {**seen, f"{kind}_sha256": earlier[f"{kind}_sha256"] if same else fingerprint(path)}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; it belongs to case {entry.name}") from error
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from error
    return {"adapter": centre.adapter, "root": str(centre.root), "labels": str(centre.labels), **files}
