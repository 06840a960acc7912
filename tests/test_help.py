"""The help of every command has groups of options and ends with examples, which the command itself can parse."""

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data.common import program
from data.common.text import HelpFormatter, add_examples
from data.contact_sheet import command as contact_sheet
from data.export import command as export_nnunet
from data.phantom import command as phantom
from data.prepare import command as prepare
from data.splits import command as splits
from data.verify import command as verify
from engine.evaluate import folder
from engine.evaluate import options as evaluate
from engine.export import command as export
from engine.infer import predict
from engine.published import command as published
from engine.stages import STAGES
from engine.study import command as study
from engine.train import options as train
from pancreas_dual_task import panorama, report
from pancreas_dual_task.command import ALL, SUBCOMMANDS, build_parser_of_all, read_name, read_stages

Parse = Callable[[Sequence[str]], object]


def of_stage(parse: Callable[..., object], stage: str) -> Parse:
    return lambda words: parse(STAGES[stage], words)


def after(action: str) -> Parse:
    """Parse the words that follow ``study ACTION``."""
    return lambda words: study.parse([action, *words])


COMMANDS: dict[str, Parse] = {
    **{f"train {stage}": of_stage(train.parse, stage) for stage in STAGES},
    **{f"evaluate {stage}": of_stage(evaluate.parse, stage) for stage in STAGES},
    "predict": predict.parse,
    "prepare": prepare.parse_options,
    "verify": verify.parse_options,
    "study": study.parse,
    **{f"study {action}": after(action) for action in ("run", "report", "compare", "condense")},
    "splits": splits.parse_options,
    "score": folder.parse,
    "export": export.parse,
    "export-nnunet": export_nnunet.parse_options,
    "contact-sheet": contact_sheet.parse_options,
    "phantom": phantom.parse_options,
    "import": published.parse,
    "panorama": panorama._parse,
    "report": report.parse,
}
GROUPED = {"train", "evaluate", "predict", "prepare", "verify", "study run", "splits", "score", "export", "phantom"}
GROUPED |= {"import", "panorama"}


def before_stage(name: str) -> Parse:
    """Parse the words that follow the name of a sub-command, of which the first is a stage."""

    def parse(words: Sequence[str]) -> None:
        for stage in read_stages(name, words):
            COMMANDS[f"{name} {stage}"](words[1:])

    return parse


def of_all(name: str) -> Parse:
    """Parse the words that follow ``train all`` or ``evaluate all``, as every stage would."""

    def parse(words: Sequence[str]) -> None:
        if "--help" in words:
            build_parser_of_all(name).parse_args(words)
        before_stage(name)([ALL, *words])

    return parse


def parse_all(words: Sequence[str]) -> None:
    """Parse the words that follow the name of the installed program."""
    name = read_name(words)
    (before_stage(name) if SUBCOMMANDS[name].stage_options else COMMANDS[name])(words[1:])


PARSERS = COMMANDS | {name: before_stage(name) for name in ("train", "evaluate")} | {program.COMMAND: parse_all}
PARSERS |= {f"{name} {ALL}": of_all(name) for name in ("train", "evaluate")}


def help_of(parse: Parse, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def examples_of(text: str) -> list[tuple[str, str]]:
    """Return the commands of the section "examples:", the last of a help, each with what it does."""
    section = text.partition("\nexamples:\n")[2]
    return re.findall(r"^  (\S.*)\n      (\S.*)$", section, re.MULTILINE)


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_ends_with_examples_that_can_be_parsed(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "read_initial_weights", lambda path, stage: None)  # of model.zip, which is not there
    folders = {Path("masks"), Path("out")}  # of the examples that compare predictions
    for path in folders:
        path.mkdir()
    text = help_of(PARSERS[name], capsys)
    examples = examples_of(text)
    assert 2 <= len(examples) <= 4 and text.endswith(f"{examples[-1][1]}\n")
    program_name = text.removeprefix("usage: ").partition(" [-h]")[0]
    for typed, does in examples:
        assert len(typed) <= 120 and len(does) <= 90
        called, found, words = typed.partition(program_name)
        assert found and called in ("", "python ")
        try:
            PARSERS[name](shlex.split(words))
        except SystemExit as end:  # such as --list, which prints and ends
            assert not end.code, capsys.readouterr().err
    assert set(Path().iterdir()) == folders


@pytest.mark.parametrize("name", [name for name in COMMANDS if name in GROUPED or name.split()[0] in GROUPED])
def test_options_are_in_groups(name, capsys):
    text = help_of(COMMANDS[name], capsys)
    groups = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert len(groups) >= 4 and groups[-1] == "examples"
    (general,) = re.findall(r"^options:\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^  (--[a-z-]+|-h)", general, re.MULTILINE)) <= {"-h", "--list"}


def test_every_command_is_tested_here():
    assert {name.split()[0] for name in COMMANDS} == set(SUBCOMMANDS)


def test_the_examples_of_the_installed_package_show_its_command(monkeypatch, capsys):
    monkeypatch.setattr(program, "IS_INSTALLED", True)
    for name in ("predict", "prepare", "verify", "splits", "phantom", "score", "export", "train tumor_fine"):
        assert all(
            typed.startswith(f"pancreas-dual-task {name}") for typed, _ in examples_of(help_of(COMMANDS[name], capsys))
        )


def test_a_script_is_shown_as_it_was_called(monkeypatch):
    def shown(called: str) -> str:
        monkeypatch.setattr("sys.argv", [called, "--help"])
        parser = argparse.ArgumentParser(prog="train.py", formatter_class=HelpFormatter)
        add_examples(parser, ("--dry-run", "try it"))
        return parser.format_help()

    assert "\n  python train.py --dry-run\n      try it\n" in shown("train.py")
    assert "\n  python of_tumours/train.py --dry-run\n" in shown("of_tumours/train.py")
    assert "\n  python train.py --dry-run\n" in shown("/usr/bin/pytest")


def test_help_texts_keep_lists_and_say_defaults_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter, description="A line. " * 10, epilog="a  b\nc  d")
    parser.add_argument("--list", default=[], help="change (repeatable):\nfirst=1  " + "long " * 10 + "\nsecond=2")
    parser.add_argument("--number", default=3, help="a number")
    parser.add_argument("--other", default=3, help="a number (default: three)")
    lines = [line.strip() for line in parser.format_help().splitlines()]
    assert all(len(line) <= 60 for line in lines) and "c  d" in lines
    assert "second=2" in lines and any(line.startswith("first=1  long") for line in lines)
    assert [line for line in lines if "default" in line] == [
        "--number NUMBER  a number (default: 3)",
        "--other OTHER    a number (default: three)",
    ]
