"""Command: check whether a centre is fit to train on. It reads every case and prints a table of what it found.

    python -m data.verify folder ~/my_hospital --centre my_hospital [--centre-by COLUMN] [--json FILE] [--sheet DIR]
    python -m data.verify --store [DIR]

It also finds scans and patients that the store already holds under another centre, or that two centres of the same
run share. With ``--centre-by`` each centre has a table of its own. Without a data set, the cases that are already
prepared are compared with the hashes of their files, to find those that a failing disk has damaged. Apart from the
files that are asked for, the command writes only thumbnails, which it keeps beside the cases of the store.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import check_replaceable, check_writable, replacing
from data.common.parallel import in_parallel
from data.common.program import command_name
from data.common.text import add_examples, format_row, wrap_words
from data.contact_sheet.sheet import write_sheets
from data.sources.centres import Centre, CentreOptions, add_centre_arguments, find_centres, notes_on
from data.verify.findings import (
    Finding,
    Inspection,
    Level,
    find_implausible_labels,
    find_outliers,
    finding_from_error,
    inspect_entry,
)
from data.verify.overlap import CaseIdentity, find_overlap, identities_in_store, identities_of
from data.verify.store import check_store

LEVELS: tuple[Level, ...] = get_args(Level)  # the most serious one first
NAMED_CASES = 4  # per row
COLUMN_WIDTH = 48  # characters
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


@dataclass(frozen=True)
class VerifyOptions:
    """The options of the command.

    Attributes:
        centres: The data set, the centres made of it, the store and the number of processes; None to check the store.
        store: Folder of the prepared cases.
        workers: Number of processes that read.
        json_file: File to write all findings to, if any.
        sheet_folder: Folder to write contact sheets into, if any.
    """

    centres: CentreOptions | None
    store: Path
    workers: int
    json_file: Path | None
    sheet_folder: Path | None


def parse_options(argv: Sequence[str] | None) -> VerifyOptions:
    """Parse and validate the command line.

    Raises:
        InputError: If the value of an option is not valid.
    """
    parser = argparse.ArgumentParser(
        prog=command_name("python -m data.verify", "verify"),
        description="Check whether a centre is fit to train on, by reading everything that data.prepare would read; "
        "or, without SOURCE and ROOT, whether the cases of a store are as they were prepared.",
    )
    output = add_centre_arguments(parser, or_store=True)
    output.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all findings to this file as well, with --centre-by as a list of centres (default: no file)",
    )
    output.add_argument(
        "--sheet",
        type=Path,
        metavar="DIR",
        help="write contact sheets with a picture of every case into this folder (default: no pictures)",
    )
    add_examples(
        parser,
        ("folder /data/hospital_a --centre hospital_a", "check your own scans before they are prepared"),
        ("folder /data/hospital_a --centre hospital_a --sheet sheets", "also draw every case, to look through them"),
        ("", "check that the prepared cases have not been changed or damaged since"),
    )
    args = parser.parse_args(argv)
    if (args.source is None) != (args.centre is None) or (args.source is None) != (args.root is None):
        parser.error("SOURCE, ROOT and --centre are given together; without all three the store is checked")
    if args.source is None and args.sheet:
        sheets = command_name("python -m data.contact_sheet", "contact-sheet")
        parser.error(f"--sheet draws the cases of a data set; {sheets} draws those of a store")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}", "at least one process is needed", "give 1 or more")
    return VerifyOptions(
        centres=None if args.source is None else CentreOptions.from_args(args),
        store=args.store,
        workers=args.workers,
        json_file=args.json and args.json.expanduser(),
        sheet_folder=args.sheet and args.sheet.expanduser(),
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Verify the centres that the command line names, or the store, and return the exit code."""
    options = parse_options(argv)
    if options.json_file:
        check_replaceable(options.json_file)
    return _verify_store(options) if options.centres is None else _verify_centres(options.centres, options)


def _verify_store(options: VerifyOptions) -> int:
    print(f"store {options.store}: comparing the files of all cases with their hashes", flush=True)
    cases, findings = check_store(options.store, options.workers)
    if findings:
        print(format_findings(findings))
    damaged = {finding.case for finding in findings if finding.level == "fatal"}
    print(f"{cases} cases, {len(damaged)} damaged files" if damaged else f"{cases} cases, nothing damaged")
    if options.json_file:
        record = {"store": str(options.store), "cases": cases, "findings": [f._asdict() for f in findings]}
        with replacing(options.json_file) as unfinished:
            unfinished.write_text(json.dumps(record, indent=1))
    return EXIT_BAD_INPUT if damaged else 0


def _verify_centres(chosen: CentreOptions, options: VerifyOptions) -> int:
    store, centre_by = chosen.store, chosen.centre_by
    centres = find_centres(chosen)
    if options.sheet_folder:
        check_writable(options.sheet_folder)
    for note in notes_on(centres, centre_by):
        print(f"note: {note}")
    inspected = [_inspect_centre(centre, options) for centre in centres]
    others: list[CaseIdentity] = []
    store_findings: list[Finding] = []
    try:
        others += identities_in_store(store, {centre.name for centre in centres})
    except InputError as error:  # a fault of the store, which does not make the cases of these centres unfit
        store_findings.append(finding_from_error(error, "warning", root=store))
    records, unfit = [], False
    for centre, cases in zip(centres, inspected, strict=True):
        ours = identities_of(centre, cases)
        findings = [finding for case in cases for finding in case.findings]
        implausible = find_implausible_labels(centre.name, cases, accept=centre.accept_labels)
        findings += implausible + find_outliers(cases) + find_overlap(ours, others) + store_findings
        others += ours  # the centres that follow are compared with this one, too
        unfit |= any(finding.level == "fatal" for finding in findings)
        records.append(_record(centre, cases, findings))
        if centre_by:
            print(f"\ncentre {centre.name}")
        _print_report(cases, findings)
        if any(finding.level == "fatal" for finding in implausible):
            print(f"but the centre as a whole is not: {implausible[0].problem}")
    if options.json_file:
        with replacing(options.json_file) as unfinished:
            unfinished.write_text(json.dumps(records if centre_by else records[0], indent=1))
    return EXIT_BAD_INPUT if unfit else 0


def _inspect_centre(centre: Centre, options: VerifyOptions) -> list[Inspection]:
    """Read all cases of a centre, and write contact sheets if they were asked for."""
    print(f"centre {centre.name}: reading {len(centre.entries)} cases of {centre.root} ({centre.adapter})", flush=True)
    pictures = options.sheet_folder is not None
    work = partial(inspect_entry, labels=centre.labels, root=centre.root, accept=centre.accept_labels, picture=pictures)
    inspected = in_parallel(work, centre.entries, options.workers, f"verifying {centre.name}")
    cases = sorted(inspected, key=lambda case: case.name)
    if options.sheet_folder:
        tiles = [case.tile for case in cases if case.tile is not None]
        for path in write_sheets(options.sheet_folder, centre.name, tiles):
            print(path)
    return [replace(case, tile=None) for case in cases]  # the pictures of a whole centre are large


def format_findings(findings: Sequence[Finding]) -> str:
    """Format findings as a table, the most serious ones first.

    Findings of the same level that differ only in their numbers share a row.
    """
    rows: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: (LEVELS.index(f.level), f.problem, f.case)):
        rows.setdefault((finding.level, NUMBER.sub("#", finding.problem)), []).append(finding)
    lines = [("level", "cases", "finding", "which", "what to do")]
    for (level, _), group in rows.items():
        names = sorted({f"{f.case} = {f.other}" if f.other else f.case for f in group})
        more = len(names) - NAMED_CASES
        which = ", ".join(names[:NAMED_CASES]) + (f" and {more} more" if more > 0 else "")
        problem = group[0].problem + (" (or similar)" if len({f.problem for f in group}) > 1 else "")
        lines.append((level, str(len({f.case for f in group})), problem, which, group[0].remedy))
    cells = [[wrap_words(cell, COLUMN_WIDTH) for cell in line] for line in lines]
    widths = [max((len(part) for line in cells for part in line[column]), default=0) for column in range(5)]
    return "\n".join(format_row(line, widths) for line in cells)


def _print_report(cases: Sequence[Inspection], findings: Sequence[Finding]) -> None:
    if findings:
        print(format_findings(findings))
    # Faults of the store are findings as well, but not about these cases.
    fit = {case.name for case in cases if not case.fatal}
    warned = {finding.case for finding in findings if finding.level == "warning"} & fit
    tumours = sum(case.has_tumour for case in cases if not case.fatal)
    print(f"{len(fit)} of {len(cases)} cases are fit to train on, {len(warned)} of them with warnings")
    if tumours:
        print(f"{tumours} of them have a tumour")
    elif fit:
        print("none of them has a tumour: they can train the pancreas stages only")


def _record(centre: Centre, cases: Sequence[Inspection], findings: Sequence[Finding]) -> dict[str, object]:
    """Collect everything that was found about a centre, for other programs."""
    return {
        "centre": centre.name,
        "source": centre.adapter,
        "root": str(centre.root),
        "labels": str(centre.labels),
        "cases": len(cases),
        "fit": sum(not case.fatal for case in cases),
        "with_tumour": sum(case.has_tumour for case in cases if not case.fatal),
        "counts": {level: sum(f.level == level for f in findings) for level in LEVELS},
        "findings": [finding._asdict() for finding in findings],
    }
