"""The README and the pages of docs/ name only files, functions, commands and options that exist."""

import contextlib
import functools
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from unittest import mock

import pytest

from data.common.files import REPOSITORY
from engine import metrics
from engine.report import tables
from models.losses import LossWeights

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "checkpoints" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
TRAIN = ("train_tumor/train_sh_tumor_coarse.py",)
EVALUATE = ("evaluate_tumor/evaluate_sh_tumor_coarse.py",)
SCRIPTS = {"training": TRAIN, "evaluation": EVALUATE, "prediction": ("predict.py",)}
Program = tuple[str, ...]


def page_id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def defines(source: str, name: str) -> bool:
    return re.search(rf"^\s*(async )?(def|class) {name}\b|^{name}\b[^=\n]*=", source, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere_and_linked_names_are_defined_there(page):
    faults = []
    for text, target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        name = re.fullmatch(r"`(\w+)`", text)
        if not file.exists() or (anchor and anchor not in headings(file)):
            faults.append(target)
        elif name and file.suffix == ".py" and not defines(file.read_text(), name[1]):
            faults.append(f"{name[1]} in {target}")
    assert not faults


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every ``python ...`` command of a page, in blocks of code and within lines."""
    text = text.replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for line in (*blocks.splitlines(), *re.findall(r"`(python [^`\n]+)`", text)):
        if line.startswith("python "):
            yield shlex.split(line, comments=True)[1:]


def program_of(arguments: list[str]) -> Program:
    """What is run: a module or a script, with the action of a study."""
    count = 2 if arguments[0] == "-m" else 1
    return tuple(arguments[: count + (arguments[:2] == ["-m", "engine.study"])])


@functools.cache
def options(program: Program) -> frozenset[str]:
    """The options in the usage line of a command, which is run in this process to save the import of torch."""
    module = program[0] == "-m"
    arguments = program[2:] if module else program[1:]
    said = io.StringIO()
    with (
        mock.patch("data.common.process.set_up_process"),
        mock.patch.object(sys, "argv", [program[1] if module else program[0], *arguments, "--help"]),
        mock.patch.object(sys, "path", list(sys.path)),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(said),
        pytest.raises(SystemExit) as end,
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy: the module is imported already
        if module:
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(REPOSITORY / program[0]), run_name="__main__")
    assert not end.value.code, program
    return frozenset(FLAG.findall(said.getvalue().split("\n\n")[0])) | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_exist_and_know_their_options(page):
    for arguments in commands(page.read_text()):
        known = options(program_of(arguments))
        typed = {argument for argument in arguments if FLAG.fullmatch(argument)}
        assert typed <= known, shlex.join(arguments)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_options_in_the_text_belong_to_some_command(page):
    programs = {program_of(arguments) for other in PAGES for arguments in commands(other.read_text())}
    known = frozenset().union(*map(options, programs))
    typed = {flag for code in re.findall(r"`(--[^`\n]+)`", page.read_text()) for flag in FLAG.findall(code)}
    assert typed <= known


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tables_of_options_name_options_of_their_command(page):
    """The heading names the command, as in "option of `data.prepare`", or the second column names the scripts."""
    module = None
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0].startswith("option"):
            module = re.search(r"`([\w.]+)`", cells[0])
        if not cells or not cells[0].startswith("`--"):
            continue
        if module:
            programs = [("-m", module[1])]
        else:
            scripts = cells[1].replace("all", "training, evaluation")
            programs = [program for name, program in SCRIPTS.items() if name in scripts]
        assert programs and all(set(FLAG.findall(cells[0])) <= options(program) for program in programs), line


def test_the_lines_of_the_readme_are_short():
    assert all(len(line) < 120 for line in PAGES[0].read_text().splitlines())


def test_the_glossary_has_every_column():
    named = set(re.findall(r"`([\w.]+)`", (REPOSITORY / "docs" / "glossary.md").read_text()))
    terms = set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "method.md").read_text(), re.MULTILINE))
    assert {*metrics.COLUMNS, *tables.SUMMARISED} <= named
    assert {field.name for field in fields(LossWeights)} <= terms


@pytest.mark.parametrize("study", sorted((REPOSITORY / "docs" / "study").glob("**/runs.csv")), ids=page_id)
def test_the_glossary_explains_every_column_of_the_studies(study):
    named = re.findall(r"`([\w.<>]+)`", (REPOSITORY / "docs" / "glossary.md").read_text())
    patterns = [re.sub(r"<\w+>", r"[\\w.-]+", name.replace(".", r"\.")) for name in named]
    for table in (study, study.with_name("cases.csv")):
        columns = table.read_text().partition("\n")[0].split(",")
        assert [column for column in columns if not any(re.fullmatch(p, column) for p in patterns)] == []
