"""The check of prepared cases against the hashes of their files, which finds what a failing disk has changed."""

from collections.abc import Sequence
from pathlib import Path

from data.cases.case import Case, read_case
from data.cases.store import case_folders
from data.common.errors import InputError
from data.common.parallel import in_parallel
from data.verify.findings import Finding, finding_from_error


def check_store(store: Path, workers: int) -> tuple[int, list[Finding]]:
    """Compare every file of every prepared case with the hash that was recorded when the case was prepared.

    Args:
        store: Folder of the prepared cases.
        workers: Number of processes that read.

    Returns:
        The number of cases, and what was found, a damaged case being fatal.

    Raises:
        InputError: If the store holds no case.
    """
    folders = case_folders(store)
    found: list[Finding] = []
    for findings in in_parallel(_check_case, folders, workers, "verifying the store"):
        found += findings
    return len(folders), found


def _check_case(folder: Path) -> Sequence[Finding]:
    store = folder.parent.parent
    try:
        case = read_case(folder)
    except InputError as error:
        return [finding_from_error(error, "fatal", root=store)]
    if not case.files:
        problem = "prepared by an earlier version, which recorded no hashes"
        return [Finding("warning", problem, case.key, "prepare this centre again with the same options")]
    return [finding for name in sorted(case.files) for finding in _check_file(case, name, store)]


def _check_file(case: Case, name: str, store: Path) -> list[Finding]:
    try:
        case.check_file(name)
        return []
    except InputError as error:
        return [finding_from_error(error, "fatal", root=store)]
    except OSError as error:
        remedy = f"check the disk; if the file is lost, delete {case.folder} and prepare its centre again"
        fault = InputError(case.folder / name, f"cannot be read ({error.strerror})", remedy)
        return [finding_from_error(fault, "fatal", root=store)]
