"""The command ``pancreas-dual-task``, whose sub-commands are the scripts and the ``python -m`` commands."""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from data.common.process import set_up_process
from data.common.program import COMMAND, PACKAGE, module_name
from data.common.text import HelpFormatter, add_examples
from pancreas_dual_task.all_stages import parser_of_all

ALL = "all"  # in place of a stage


@dataclass(frozen=True)
class SubCommand:
    """A sub-command.

    Attributes:
        help: What it does.
        module: Its function ``main`` is called with the words that follow.
        stage_options: Module whose ``build_parser`` makes the parser of a stage, if the first of these words is the
            name of a stage, or ALL for one after the other; empty if it is not.
        computes: Whether it runs the network; see ``set_up_process``.
        examples: For its help without a stage, as in ``add_examples``.
    """

    help: str
    module: str
    stage_options: str = ""
    computes: bool = False
    examples: Sequence[tuple[str, str]] = ()


SUBCOMMANDS = {
    "train": SubCommand(
        "train a stage of the cascade, or all of them",
        "engine.train.command",
        stage_options="engine.train.options",
        computes=True,
        examples=(
            ("tumor_fine --data hospital_a", "train a stage without the cases of hospital_a"),
            ("all --dry-run", "print what each stage would be trained on and how long it would take"),
            ("all --data hospital_a --resume", "train all stages, and continue those that were interrupted"),
            ("all --init model.zip --lr 1e-4 --epochs 40", "fine-tune somebody else's model"),
        ),
    ),
    "evaluate": SubCommand(
        "evaluate a stage, or all, on the held-out cases",
        "engine.evaluate.stage",
        stage_options="engine.evaluate.options",
        computes=True,
        examples=(
            ("tumor_fine --data hospital_a", "evaluate the newest model that was trained without hospital_a"),
            ("all --data hospital_a", "evaluate all stages, each around the masks of those before"),
            ("all --data hospital_a --fast", "the same in about a sixth of the time, but slightly less accurately"),
        ),
    ),
    "predict": SubCommand("segment new scans", "engine.infer.predict", computes=True),
    "prepare": SubCommand("read the scans of a centre and store them", "data.prepare.command"),
    "verify": SubCommand("report what is wrong with the files of a centre", "data.verify.command"),
    "study": SubCommand("train and compare variants of the method", "engine.study.command"),
    "report": SubCommand("write report.html again from results that exist", f"{PACKAGE}.report"),
    "splits": SubCommand("show the splits of the prepared cases, and add cross-validations", "data.splits.command"),
    "score": SubCommand("score masks that another program has made", "engine.evaluate.folder"),
    "export": SubCommand("write a trained model into one file, or for other programs", "engine.export.command"),
    "export-nnunet": SubCommand("write the prepared cases for nnU-Net", "data.export.command"),
    "contact-sheet": SubCommand("draw the prepared cases", "data.contact_sheet.command"),
    "phantom": SubCommand("make synthetic scans", "data.phantom.command"),
    "import": SubCommand("make a checkpoint of the published release usable", "engine.published.command"),
    "panorama": SubCommand(
        "segment one scan as the PANORAMA challenge asks for it, in a container", f"{PACKAGE}.panorama", computes=True
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command that the command line names.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    name = read_name(words)
    subcommand, words = SUBCOMMANDS[name], words[1:]
    set_up_process(computes=subcommand.computes)
    run = importlib.import_module(module_name(subcommand.module)).main
    if not subcommand.stage_options:
        return run(words) or 0
    if words[:1] == [ALL] and {"-h", "--help"} & {*words}:
        build_parser_of_all(name).parse_args(["--help"])
    for stage in read_stages(name, words):
        if code := run(stage, words[1:]):
            return code
    return 0


def read_name(words: Sequence[str]) -> str:
    """Return the name of the sub-command, which is the first word."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Segment the pancreas and its tumours in CT, and train the networks that do.",
        epilog="\n".join(["commands:", *(f"  {name:<14} {known.help}" for name, known in SUBCOMMANDS.items())])
        + f"\n\n{COMMAND} COMMAND --help lists the options of a command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", choices=SUBCOMMANDS, metavar="COMMAND", help="one of those below")
    add_examples(
        parser,
        ("prepare folder /data/hospital_a --centre hospital_a", "read the scans of a centre and store them"),
        ("train all --data hospital_a", "train all stages without the cases of this centre"),
        ("evaluate all --data hospital_a", "evaluate the trained models on the cases of this centre"),
        ("predict scan.nii.gz -o out --model model.zip", "segment a new scan with a model file"),
    )
    return parser.parse_args(words[:1]).command


def build_parser_of_all(name: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a sub-command that apply to all stages."""
    from engine.stages import STAGES  # as in read_stages

    build_parser = importlib.import_module(module_name(SUBCOMMANDS[name].stage_options)).build_parser
    parsers = {stage_name: build_parser(stage) for stage_name, stage in STAGES.items()}
    examples = [(words, does) for words, does in SUBCOMMANDS[name].examples if words.split()[0] == ALL]
    return parser_of_all(name, parsers, [(words.removeprefix(ALL).strip(), does) for words, does in examples])


def read_stages(name: str, words: Sequence[str]) -> list[str]:
    """Return the stages that the first word after the name of a sub-command names, in the order of the cascade."""
    from engine.stages import STAGES  # it loads torch, for which set_up_process comes first

    parser = argparse.ArgumentParser(
        prog=f"{COMMAND} {name}",
        usage="%(prog)s [-h] STAGE [options]",
        description=f"{SUBCOMMANDS[name].help.capitalize()}. {COMMAND} {name} STAGE --help lists the options.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "stage",
        choices=[*STAGES, ALL],
        metavar="STAGE",
        help=f"{', '.join(STAGES)}, or {ALL} for one after the other with the same options",
    )
    add_examples(parser, *SUBCOMMANDS[name].examples)
    stage = parser.parse_args(words[:1]).stage
    return list(STAGES) if stage == ALL else [stage]


def _version() -> str:
    try:
        return f"{COMMAND} {importlib.metadata.version(COMMAND)}"
    except importlib.metadata.PackageNotFoundError:  # in the repository
        return f"{COMMAND}, not installed"
