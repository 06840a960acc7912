"""Make a checkpoint of the published release usable here: python -m engine.published FILE --stage STAGE.

The network and its weights are those of the release, whose outputs it reproduces (tests/parity). The boxes of this
project, which are defined in mm, approximate the voxel-based cropping and resampling of the release.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.common.errors import InputError, command
from data.common.program import command_name
from data.common.text import HelpFormatter, add_examples
from data.splits.split import NONE_HELD_OUT
from engine.checkpoint import BEST, Checkpoint, create_run, save_checkpoint
from engine.options import add_path
from engine.published.release import read_release, release_recipe
from engine.stages import STAGES


def import_published(file: Path, *, stage_name: str, threshold: float, checkpoints: Path, split: str) -> Path:
    """Write a checkpoint of the published release as a finished run of this project.

    Args:
        file: What ``torch.save`` wrote: the parameters by the release's names, or a dictionary with them as a value.
        stage_name: The stage that it was trained for.
        threshold: Binarisation threshold to use it with.
        checkpoints: Folder of all runs.
        split: Name of the split under which ``predict.py --data`` finds it.

    Returns:
        The run folder.

    Raises:
        InputError: If the file is no such checkpoint, or has not the heads that the stage needs.
    """
    stage = STAGES[stage_name]
    net = read_release(file)
    if set(net.heads) != set(stage.published.heads):
        heads = f"has the heads {', '.join(net.heads)}, where {stage.title} has {', '.join(stage.published.heads)}"
        raise InputError(file, heads, "name the stage that it was trained for with --stage")
    run = create_run(checkpoints, stage, split)
    save_checkpoint(
        run / BEST,
        Checkpoint(
            stage=stage.name,
            split=split,
            split_hash="",
            data_hash="",
            recipe=release_recipe(net, stage.name),
            spacing_range=None,
            epoch=stage.epochs,
            net=net.state_dict(),
            thresholds={"segmentation": threshold},
        ),
    )
    return run


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        InputError: If the threshold is not one of probabilities.
    """
    predict = command_name("predict.py", "predict")
    parser = argparse.ArgumentParser(
        prog=command_name("python -m engine.published", "import"),
        description=f"Make a checkpoint of the published release usable by {predict}.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="checkpoint of the published release")
    model = parser.add_argument_group("model")
    model.add_argument("--stage", choices=STAGES, required=True, help="stage that it was trained for")
    model.add_argument("--thresh", type=float, default=0.5, metavar="FLOAT", help="binarisation threshold to use")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--data", default=NONE_HELD_OUT, metavar="NAME", help=f"name under which {predict} --data finds it"
    )
    add_path(output)
    add_examples(
        parser,
        ("tumor_fine.pth --stage tumor_fine", "import the checkpoint of a stage, to be used with the threshold 0.5"),
        ("tumor_fine.pth --stage tumor_fine --path published", "keep it apart from the runs that you trained"),
    )
    args = parser.parse_args(argv)
    if not 0 < args.thresh < 1:
        raise InputError(f"--thresh {args.thresh}", "not a threshold of probabilities", "give a number between 0 and 1")
    return args


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Import one checkpoint as the command line says."""
    args = parse(argv)
    print(
        import_published(
            args.file, stage_name=args.stage, threshold=args.thresh, checkpoints=args.path, split=args.data
        )
    )
