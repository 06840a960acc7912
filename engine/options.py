"""Command-line options that several commands share."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from data.augment import Augmentation
from data.common.errors import InputError
from data.common.settings import change_settings
from data.common.text import OptionGroup
from data.synthesis.organ_codes import absolute_labels
from data.synthesis.settings import Synthesis
from engine.checkpoint import DEFAULT_CHECKPOINTS
from engine.recipe import NetworkSettings, TrainSettings
from engine.stages import Stage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

METAVARS = {int: "N", float: "FLOAT"}
OF_SYNTHETIC_PATIENTS = {"synthetic", "boxes_per_epoch"}  # settings of the training that have a group of their own


def add_gpu(parser: OptionGroup) -> None:
    """Add ``--gpu``, which ``engine.device.choose_device`` reads."""
    parser.add_argument(
        "--gpu", default="auto", metavar="GPU", help="device to compute on: auto, the number of a GPU, or cpu"
    )


def add_path(parser: OptionGroup) -> None:
    """Add ``--path``, the folder of all runs."""
    parser.add_argument(
        "--path", type=Path, default=DEFAULT_CHECKPOINTS, metavar="DIR", help="folder in which runs are kept"
    )


def add_average(parser: OptionGroup) -> None:
    """Add ``--average``."""
    parser.add_argument(
        "--average",
        action="store_true",
        help="average the probabilities of both tasks, p and T(d), in the stages that have a distance head",
    )


def add_fast(parser: OptionGroup) -> None:
    """Add ``--fast``."""
    parser.add_argument(
        "--fast",
        action="store_true",
        help="compute every box once, in about a sixth of the time, instead of averaging over the flips of the "
        "training, which are eight by default",
    )


def add_save_probabilities(parser: OptionGroup) -> None:
    """Add ``--save-probabilities``."""
    parser.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write the probabilities on the grid of every scan, as compressed NIfTI with a byte per voxel",
    )


def add_allow_duplicates(parser: OptionGroup) -> None:
    """Add ``--allow-duplicates``."""
    parser.add_argument(
        "--allow-duplicates",
        action="store_true",
        help="train although one scan or patient is in two parts of the split",
    )


def add_settings(parser: OptionGroup, settings: "DataclassInstance", leave_out: Iterable[str] = ()) -> None:
    """Give every field of a settings dataclass an option.

    Args:
        parser: Gets the options.
        settings: Its values are the defaults; the metadata ``help`` of its fields describes them.
        leave_out: Names of fields that get no option.
    """
    for setting in fields(settings):
        if setting.name in leave_out:
            continue
        default = getattr(settings, setting.name)
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            default=default,
            help=setting.metadata["help"],
            **value_of(setting),
        )


def value_of(setting: Field) -> dict[str, Any]:
    """Return what argparse has to know about the value of a field: its choices, or its type and how it is called."""
    if "choices" in setting.metadata:
        return {"choices": setting.metadata["choices"]}
    kind = type(setting.default)
    return {"type": kind, "metavar": METAVARS.get(kind)}


def read_settings(kind: type[T], args: argparse.Namespace) -> T:
    """Collect what was typed for the options of ``add_settings``; fields without an option keep their defaults."""
    return kind(**{f.name: getattr(args, f.name) for f in fields(kind) if hasattr(args, f.name)})


def add_changes(parser: OptionGroup, flag: str, settings: "DataclassInstance", text: str) -> None:
    """Add a repeatable option ``NAME=VALUE`` that changes single fields of a settings dataclass.

    The help lists all fields with their values, those that are described on lines of their own;
    ``data.common.settings.change_settings`` applies what was typed.
    """
    described = [_describe(f.name, getattr(settings, f.name), f.metadata.get("help", "")) for f in fields(settings)]
    listed = (
        "\n" + "\n".join(described)
        if any(f.metadata.get("help") for f in fields(settings))
        else " " + "; ".join(described)
    )
    parser.add_argument(flag, action="append", default=[], metavar="NAME=VALUE", help=f"{text} (repeatable):{listed}")


def _describe(name: str, value: object, text: str) -> str:
    """One setting for a help text; argparse expands per cent signs."""
    shown = ",".join(f"{v:g}" for v in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return f"{name}={shown}{f'  {text}' if text else ''}".replace("%", "%%")


class RecipeOptions(NamedTuple):
    """The parts of a recipe that a command line sets.

    Attributes:
        stage: With the sampling as it was typed; its method is that of the table.
        network: Size of the network.
        augmentation: How training samples are varied.
        training: How the network is optimised.
        synthesis: How synthetic patients are drawn.
    """

    stage: Stage
    network: NetworkSettings
    augmentation: Augmentation
    training: TrainSettings
    synthesis: Synthesis


def without_option(stage: Stage) -> set[str]:
    """Return the names of the settings of the training that have no option in a stage.

    Every case has a pancreas, so that the pancreas stages have no negatives.
    """
    return {"negatives"} if stage.segments_pancreas else set()


def add_recipe_options(parser: argparse.ArgumentParser, stage: Stage, leave_out: Iterable[str] = ()) -> OptionGroup:
    """Add the options that ``read_recipe_options`` reads, with the defaults of ``stage``.

    Args:
        parser: Gets the options, in groups of their own.
        stage: Of the cascade.
        leave_out: Names of settings of the training that get no option.

    Returns:
        The group of the options on synthetic patients.
    """
    training = parser.add_argument_group("training")
    add_settings(
        training, TrainSettings(epochs=stage.epochs), {*leave_out, *without_option(stage), *OF_SYNTHETIC_PATIENTS}
    )
    add_settings(parser.add_argument_group("network"), NetworkSettings())
    inputs = parser.add_argument_group("augmentation and sampling")
    add_changes(inputs, "--augment", Augmentation(), "change a setting of the augmentation")
    add_changes(inputs, "--sampling", stage.sampling, "change which part of a scan the stage sees, and how")
    inputs.add_argument(
        "--target-mm",
        dest="sampling",
        action="append",
        type=partial(_voxel_change, stage),
        metavar="Z,Y,X",
        help="short for --sampling target_mm=Z,Y,X",
    )
    synthetic = parser.add_argument_group("synthetic patients")
    others = {f.name for f in fields(TrainSettings)} - OF_SYNTHETIC_PATIENTS
    add_settings(synthetic, TrainSettings(), {*leave_out, *others})
    add_changes(synthetic, "--synthesis", Synthesis(), "change how synthetic patients are drawn")
    return synthetic


def _voxel_change(stage: Stage, text: str) -> str:
    """Return the change of the sampling that ``--target-mm`` stands for.

    Raises:
        InputError: If the text is not the size of a voxel.
    """
    change = f"target_mm={text}"
    try:
        change_settings(stage.sampling, [change], "--sampling")
    except InputError as error:
        usual = ",".join(f"{mm:g}" for mm in stage.sampling.target_mm)
        remedy = f"give the size of the voxels along z, y and x in mm, such as {usual}"
        raise InputError(f"--target-mm {text}", error.problem, remedy) from error
    return change


def read_recipe_options(args: argparse.Namespace, stage: Stage) -> RecipeOptions:
    """Collect what was typed for the options of ``add_recipe_options``.

    Raises:
        InputError: If a setting is unknown, or its value is not of the right kind or out of its range.
    """
    training = read_settings(TrainSettings, args)
    return RecipeOptions(
        stage=replace(stage, sampling=change_settings(stage.sampling, args.sampling, "--sampling")),
        network=read_settings(NetworkSettings, args),
        augmentation=change_settings(Augmentation(), args.augment, "--augment"),
        training=replace(training, negatives=0.0) if stage.segments_pancreas else training,
        synthesis=read_synthesis(args.synthesis),
    )


def read_synthesis(changes: Sequence[str]) -> Synthesis:
    """Return the settings of synthetic patients with what was typed for ``--synthesis``.

    Raises:
        InputError: If a setting is unknown or out of its range, or the folder or the codes of label maps are missing.
    """
    synthesis = change_settings(Synthesis(), changes, "--synthesis")
    if not synthesis.labels:
        return synthesis
    return replace(synthesis, labels=absolute_labels(synthesis.labels))  # a run may go on from another folder
