"""Command: is this centre fit to train on? Reads everything, prints one table of what it found.

    python -m data.verify folder ~/my_hospital --centre my_hospital [--json FILE] [--sheet DIR]

It also looks whether scans or patients are in the store already, under another centre. It writes nothing but what
it is asked for, and thumbnails beside the cases of the store.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

import numpy as np

from data.centres import Centre, argument_parser, find_centre
from data.contact_sheet import write_sheets
from data.duplicates import like_pairs, patient_ids, thumbnails
from data.errors import EXIT_BAD_INPUT, InputError, command
from data.files import replacing
from data.findings import Finding, Inspection, blame, centre_findings, inspect_entry
from data.parallel import in_parallel
from data.sources import remarks
from data.store import Case, read_store

LEVELS = ("fatal", "warning", "fixed")
SHOWN = 4  # cases named per row
WRAPPED = 48  # characters of a column
LEAK = "keep one of them, in one centre; training refuses a split between them"


def store_findings(cases: Sequence[Inspection], centre: Centre) -> list[Finding]:
    """Scans that this centre holds twice, or that the store has in another centre, and patients of two centres."""
    read = [case for case in cases if case.thumbnail is not None]
    if not read:
        return []
    ours = np.stack([case.thumbnail for case in read])
    found = [
        Finding("warning", f"{kind}, twice in this centre", read[i].name, LEAK, read[j].name)
        for i, j, kind, _ in like_pairs(ours)
    ]
    try:
        others = _other_centres(centre)
        like = like_pairs(ours, thumbnails(others))
    except InputError as error:  # the store's fault, not this centre's
        return [*found, blame(error, "warning")]
    for i, j, kind, _ in like:
        what = f"{kind}, as in centre {others[j].centre}"
        found.append(Finding("warning", what, read[i].name, LEAK, others[j].key))
    patients = {name: case for case in others for name in patient_ids(case)}
    for case in read:
        other = patients.get(("set", centre.adapter, str(centre.root), case.patient))
        if other:
            what = f"patient also in centre {other.centre}"
            found.append(Finding("warning", what, case.name, LEAK, other.key))
    return found


def _other_centres(centre: Centre) -> list[Case]:
    """What the store has, but this centre itself and the parts of it that a column made centres of."""
    if not any(centre.store.glob("[!.]*/[!.]*/case.json")):
        return []
    root = str(centre.root)
    return [
        case
        for name, cases in read_store(centre.store).items()
        for case in cases
        if name != centre.name and not (name.startswith(f"{centre.name}_") and case.source.get("root") == root)
    ]


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
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for line in cells
        for parts in zip_longest(*line, fillvalue="")
    )


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
    parser = argument_parser("data.verify", "Is this centre fit to train on? Reads everything that prepare would.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all findings to this file")
    parser.add_argument("--sheet", type=Path, metavar="DIR", help="also write pictures of the cases into this folder")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    centre = find_centre(args)
    print(f"centre {centre.name}: reading {len(centre.entries)} cases of {centre.root} ({centre.adapter})", flush=True)
    for line in remarks(args.source, centre.root):
        print(f"note: {line}")
    work = partial(inspect_entry, labels=centre.labels, picture=args.sheet is not None)
    inspected = in_parallel(work, centre.entries, args.workers, f"verifying {centre.name}")
    cases = sorted(inspected, key=lambda case: case.name)
    findings = [finding for case in cases for finding in case.findings]
    findings += centre_findings(cases) + store_findings(cases, centre)
    if findings:
        print(table(findings))
    if args.json:
        with replacing(args.json.expanduser()) as unfinished:
            unfinished.write_text(json.dumps(record(centre, cases, findings), indent=1))
    if args.sheet:
        tiles = [case.tile for case in cases if case.tile is not None]
        for path in write_sheets(args.sheet.expanduser(), centre.name, tiles):
            print(path)
    warned = {finding.case for finding in findings if finding.level == "warning"}
    fit, tumours = sum(not case.fatal for case in cases), sum(case.has_tumour for case in cases)
    print(f"{tumours} of them have a tumour" if tumours else "none has a tumour: fit for the pancreas stages alone")
    print(f"{fit} of {len(cases)} cases are fit to train on, {len(warned)} of them with warnings")
    return EXIT_BAD_INPUT if fit < len(cases) else 0


if __name__ == "__main__":
    sys.exit(main())
