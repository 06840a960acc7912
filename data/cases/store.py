"""The store: the folder of all prepared cases, by centre (``data.cases.case`` says what a case consists of)."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from data.cases.case import Case, read_case
from data.common.errors import InputError
from data.common.files import WORKSPACE, replacing
from data.common.program import command_name

DEFAULT_STORE = WORKSPACE / "data" / "prepared"
REFUSAL = "refused.txt"  # in the folder of a centre: why its cases must not be used
UNFINISHED = "its preparation is not finished"  # so its labels have not been judged as a whole


def case_folders(store: Path) -> list[Path]:
    """List the folders of all prepared cases, sorted. Raises InputError if there is none."""
    folders = sorted(path.parent for path in Path(store).glob("[!.]*/[!.]*/case.json"))
    if not folders:
        remedy = "prepare your centres into it; how is shown by"
        command = f"{command_name('python -m data.prepare', 'prepare')} --help"
        raise InputError(store, "no centre is prepared here", remedy, command=command)
    return folders


def read_store(store: Path) -> dict[str, list[Case]]:
    """Read the manifests of all prepared cases.

    Returns:
        The cases by centre; centres and cases are sorted by name.

    Raises:
        InputError: If the store holds no case, a manifest cannot be read, cases were prepared in different ways, or a
            centre is refused as a whole.
    """
    folders = case_folders(store)
    for centre in sorted({folder.parent for folder in folders}):
        if (centre / REFUSAL).is_file():
            problem = (centre / REFUSAL).read_text(encoding="utf-8").strip()
            remedy = f"delete {centre}, or prepare it again with the right --labels or with --accept-labels"
            remedy = "finish it with the same call of data.prepare" if problem == UNFINISHED else remedy
            raise InputError(centre, problem, remedy)
    cases = [read_case(folder) for folder in folders]
    first = cases[0]
    centres: dict[str, list[Case]] = {}
    for case in cases:
        if case.preparation != first.preparation:
            ways = f"{first.key} with {first.preparation}, {case.key} with {case.preparation}"
            problem = f"the cases were prepared in different ways ({ways})"
            raise InputError(store, problem, "prepare all centres with the same options")
        centres.setdefault(case.centre, []).append(case)
    return centres


def refuse_centre(folder: Path, problem: str) -> None:
    """Make ``read_store`` refuse the centre in this folder for a problem; an empty text makes it usable again."""
    if not problem:
        (folder / REFUSAL).unlink(missing_ok=True)
        return
    with replacing(folder / REFUSAL) as unfinished:
        unfinished.write_text(problem, encoding="utf-8")


def digest(cases: Iterable[Case]) -> str:
    """Hash the content of cases.

    The hash changes if any of them is prepared from another file or in another way, not if a data set is moved.
    """
    manifests = sorted((case.key, case.content()) for case in cases)
    return hashlib.sha256(json.dumps(manifests).encode()).hexdigest()[:16]
