"""The provenance of a prepared case: which files it was made from, so that unchanged files are recognised."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from data.common.errors import InputError
from data.common.files import add_content
from data.sources.base import Entry
from data.sources.centres import Centre
from data.sources.label_map import settle_map

PHANTOM_MARK = "phantom.json"  # in the folder of all centres that data.phantom writes


def fingerprint(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and contents of all files in a folder.

    Only contents count, because copying a data set changes the dates of its files.
    """
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        if file.is_file():
            add_content(digest, file)
    return digest.hexdigest()


def stat_signature(path: Path) -> str:
    """Describe a file, or the files in a folder, by their number, total size in bytes and latest change in ns.

    As long as the signature stays the same, the content is assumed to be unchanged and is not read again.
    """
    stats = [file.stat() for file in (path.iterdir() if path.is_dir() else [path])]
    size, changed = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
    return f"{len(stats)} files, {size} bytes, {changed}"


def source_of(entry: Entry, centre: Centre, earlier: Mapping[str, str]) -> dict[str, str]:
    """Describe the files that a case is made from, for its manifest.

    Args:
        entry: The case as its data set lists it.
        centre: The centre that the case belongs to.
        earlier: The description in the manifest of an earlier preparation, empty if there is none. Files whose
            signature has not changed since then are not read again.

    Returns:
        Adapter and root of the data set, the label map of the case, which the names in its label file may decide, the
        series if one was chosen, the mark of synthetic scans if there is one, and the path, signature and SHA-256 of
        image and label.

    Raises:
        InputError: If the entry has a fault, one of its files is missing or cannot be read, or it is not clear what
            the codes of the label mean.
    """
    files: dict[str, str] = {}
    for kind, path in zip(("image", "label"), entry.files(), strict=True):
        try:
            seen = {kind: str(path), f"{kind}_seen": stat_signature(path)}
            same = all(earlier.get(key) == value for key, value in seen.items())
            files |= {**seen, f"{kind}_sha256": earlier[f"{kind}_sha256"] if same else fingerprint(path)}
        except FileNotFoundError as error:
            remedy = f"restore it, because case {entry.name} consists of it"
            raise InputError(path, "no such file", remedy) from error
        except OSError as error:
            problem = f"the file cannot be read ({error.strerror})"
            raise InputError(error.filename or path, problem, "check its permissions and the disk") from error
    image_path, label_path = entry.files()
    names = entry.reader.names(label_path)
    labels, _ = settle_map(label_path, names, centre.labels, accept=centre.accept_labels)
    chosen = {"series": entry.series} if entry.series and image_path.is_dir() else {}
    for folder in image_path.parents[:3]:
        if (folder / PHANTOM_MARK).is_file():
            chosen["phantom_mark"] = str(folder / PHANTOM_MARK)
    return {"adapter": centre.adapter, "root": str(centre.root), "labels": str(labels), **chosen, **files}
