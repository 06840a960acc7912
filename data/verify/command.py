"""Command: is this centre fit to train on? Reads everything, prints one table of what it found.

    python -m data.verify folder ~/my_hospital --centre my_hospital [--centre-by COLUMN] [--json FILE] [--sheet DIR]

It also looks whether scans or patients are in the store already, under another centre, or in two of the centres that
a column makes; each of these has a table of its own. It writes nothing but what it is asked for, and thumbnails
beside the cases of the store.
"""

import argparse
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap

from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.common.parallel import in_parallel
from data.common.text import in_columns
from data.contact_sheet import write_sheets
from data.sources.centres import Centre, CentreOptions, add_centre_arguments, find_centres, notes_on
from data.verify.findings import Finding, Inspection, blame, centre_findings, inspect_entry
from data.verify.overlap import Known, known_in_store, known_of, shared_findings

LEVELS = ("fatal", "warning", "fixed")
SHOWN = 4  # cases named per row
WRAPPED = 48  # characters of a column


def table(findings: Sequence[Finding]) -> str:
    """One row per kind of finding, worst first; findings that differ in numbers alone share a row."""
    rows: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: (LEVELS.index(f.level), f.what, f.case)):
        rows.setdefault((finding.level, re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", finding.what)), []).append(finding)
    lines = [("level", "cases", "what", "which", "what to do")]
    for (level, _), group in rows.items():
        names = sorted({f"{f.case} = {f.other}" if f.other else f.case for f in group})
        which = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        what = group[0].what + (" (and the like)" if len({f.what for f in group}) > 1 else "")
        lines.append((level, str(len({f.case for f in group})), what, which, group[0].remedy))
    cells = [[wrap(cell, WRAPPED) for cell in line] for line in lines]
    widths = [max(len(part) for line in cells for part in line[column]) for column in range(5)]
    return "\n".join(in_columns(line, widths) for line in cells)


def record(centre: Centre, cases: Sequence[Inspection], findings: Sequence[Finding]) -> dict:
    """Everything that was found, for other programs."""
    return {
        "centre": centre.name,
        "source": centre.adapter,
        "root": str(centre.root),
        "labels": str(centre.labels),
        "cases": len(cases),
        "fit": sum(not case.fatal for case in cases),
        "with_tumour": sum(case.has_tumour for case in cases),
        "counts": {level: sum(f.level == level for f in findings) for level in LEVELS},
        "findings": [finding._asdict() for finding in findings],
    }


def _parser() -> argparse.ArgumentParser:
    description = "Is this centre fit to train on? Reads everything that prepare would."
    parser = argparse.ArgumentParser(prog="python -m data.verify", description=description)
    add_centre_arguments(parser)
    found = "also write all findings to this file, with --centre-by as a list of centres"
    parser.add_argument("--json", type=Path, metavar="FILE", help=found)
    parser.add_argument("--sheet", type=Path, metavar="DIR", help="also write pictures of the cases into this folder")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    centres = find_centres(CentreOptions.from_args(args))
    for line in notes_on(centres, args.centre_by):
        print(f"note: {line}")
    inspected = [_inspect(centre, args) for centre in centres]
    others, faults = _known_in_store(centres)
    records = []
    for centre, cases in zip(centres, inspected, strict=True):
        findings = [finding for case in cases for finding in case.findings]
        findings += centre_findings(cases) + shared_findings(centre, cases, others) + faults
        others += known_of(centre, cases)  # one that comes after is compared with this one
        records.append(record(centre, cases, findings))
        if args.centre_by:
            print(f"\ncentre {centre.name}")
        _report(cases, findings)
    if args.json:
        with replacing(args.json.expanduser()) as unfinished:
            unfinished.write_text(json.dumps(records if args.centre_by else records[0], indent=1))
    return EXIT_BAD_INPUT if any(found["fit"] < found["cases"] for found in records) else 0


def _inspect(centre: Centre, args: argparse.Namespace) -> list[Inspection]:
    """Read all cases of a centre, and write their pictures where asked for."""
    print(f"centre {centre.name}: reading {len(centre.entries)} cases of {centre.root} ({centre.adapter})", flush=True)
    work = partial(inspect_entry, labels=centre.labels, picture=args.sheet is not None, root=centre.root)
    inspected = in_parallel(work, centre.entries, args.workers, f"verifying {centre.name}")
    cases = sorted(inspected, key=lambda case: case.name)
    if args.sheet:
        tiles = [case.tile for case in cases if case.tile is not None]
        for path in write_sheets(args.sheet.expanduser(), centre.name, tiles):
            print(path)
    return [case._replace(tile=None) for case in cases]


def _known_in_store(centres: Sequence[Centre]) -> tuple[list[Known], list[Finding]]:
    """The cases of the store's other centres, or what hinders reading them: the store's fault, not these centres'."""
    try:
        return known_in_store(centres[0].store, {centre.name for centre in centres}), []
    except InputError as error:
        return [], [blame(error, "warning")]


def _report(cases: Sequence[Inspection], findings: Sequence[Finding]) -> None:
    if findings:
        print(table(findings))
    # The store's faults are findings too, but of none of these cases.
    warned = {finding.case for finding in findings if finding.level == "warning"} & {case.name for case in cases}
    fit, tumours = sum(not case.fatal for case in cases), sum(case.has_tumour for case in cases)
    print(f"{fit} of {len(cases)} cases are fit to train on, {len(warned)} of them with warnings")
    if fit:
        print(f"{tumours} of them have a tumour" if tumours else "none has a tumour: fit for the pancreas stages alone")
