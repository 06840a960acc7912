"""The command has every command of the repository, and passes on what follows its name."""

import re
import shlex

import pytest

from data.common.files import REPOSITORY
from engine.stages import STAGES
from pancreas_dual_task import command
from tests.test_docs import FLAG, PAGES, page_id


def said_by(words: list[str], capsys) -> str:
    """Return what the command prints before argparse ends it."""
    with pytest.raises(SystemExit) as end:
        command.main(words)
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    return printed.out


def test_it_has_every_command_of_the_repository():
    """A command that is added to the repository is added to ``SUBCOMMANDS``, too."""
    doors = [*(REPOSITORY / "data").rglob("__main__.py"), *(REPOSITORY / "engine").rglob("__main__.py")]
    doors += [*REPOSITORY.glob("train_*/*.py"), *REPOSITORY.glob("evaluate_*/*.py"), REPOSITORY / "predict.py"]
    behind = {module for door in doors for module in re.findall(r"from (\S+) import main", door.read_text())}
    assert len(behind) >= 11 and behind <= {known.module for known in command.SUBCOMMANDS.values()}


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_every_sub_command_has_a_help_text(name, capsys):
    stage = ["tumor_coarse"] if command.SUBCOMMANDS[name].stage_options else []
    assert said_by([name, *stage, "--help"], capsys).startswith("usage: ")
    assert f"  {name} " in said_by(["--help"], capsys)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_without_a_stage_the_stages_are_listed(name, capsys):
    assert all(stage in said_by([name, "--help"], capsys) for stage in STAGES)
    for words, complaint in (([name], "STAGE"), ([name, "liver"], "'liver'"), ([], "COMMAND"), (["no"], "'no'")):
        with pytest.raises(SystemExit) as end:
            command.main(words)
        assert end.value.code == 2 and complaint in capsys.readouterr().err


@pytest.mark.parametrize(("fails_in", "code"), [("", 0), ("pancreas_fine", 2)])
def test_all_stages_are_taken_in_turn_until_one_fails(fails_in, code, monkeypatch):
    taken = []

    def train(stage, words):
        taken.append((stage, words))
        return 2 if stage == fails_in else 0

    monkeypatch.setattr("engine.train.command.main", train)
    assert command.main(["train", "all", "--epochs", "2"]) == code
    until = list(STAGES).index(fails_in) + 1 if fails_in else len(STAGES)
    assert taken == [(stage, ["--epochs", "2"]) for stage in list(STAGES)[:until]]


def test_the_help_of_all_stages_is_true_of_every_stage(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")  # a line for each option
    train = said_by(["train", "all", "--help"], capsys)
    assert train.startswith("usage: pancreas-dual-task train all ") and f"in this order: {', '.join(STAGES)}." in train
    assert "(default: depends on the stage, in the order above: 150, 150, 800, 500)" in train
    for flag in ("--weight NAME=VALUE", "--sampling NAME=VALUE", "--views", "--min-anchor-cells"):
        (line,) = re.findall(rf"^  {flag}.*(?:\n {{20,}}.*)*", train, re.MULTILINE)
        assert line.endswith("(default: depends on the stage, see pancreas-dual-task train STAGE --help)")
    assert "target_mm=3,2,2" not in train and "(--negatives) can only be given to a single stage" in train
    evaluate = said_by(["evaluate", "all", "--fast", "-h"], capsys)
    assert "(--roi, --average) can only be given to a single stage" in evaluate and "\n  --roi" not in evaluate
    assert "pancreas coarse" not in train + evaluate and "held-out cases of every" not in evaluate
    assert "\n  --seed N" in train and "(default: 2022)" in train  # which is the same in all


def test_exit_codes_are_passed_on(tmp_path, capsys):
    assert command.main(["train", "tumor_fine", "--store", str(tmp_path)]) == 2
    assert command.main(["evaluate", "tumor_fine", "--store", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("no centre is prepared here") == 2


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_documentation_names_sub_commands_and_options_that_exist(page, capsys):
    text = page.read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for line in blocks.splitlines():
        if "pancreas-dual-task " not in line or not line.startswith(("pancreas-dual-task", "torchrun")):
            continue
        words = shlex.split(line.partition("pancreas-dual-task ")[2], comments=True)
        count = 2 if command.SUBCOMMANDS[words[0]].stage_options or words[0] == "study" else 1
        known = FLAG.findall(said_by([*words[:count], "--help"], capsys))
        assert {word for word in words if FLAG.fullmatch(word)} <= {*known, "--help"}, line
