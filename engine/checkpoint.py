"""Checkpoints and run folders: written atomically, loaded without executing anything, found by stage, split and time.

checkpoints/<stage>/<split>/<YYYY_MM_DD_HH_MM_SS>/last.pt    everything that is needed to resume the training
                                                  best.pt    the best weights on validation, with their thresholds
"""

import errno
import os
import pickle
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from data.cases.store import DEFAULT_STORE
from data.common.errors import InputError
from data.common.files import WORKSPACE, make_folder, replacing
from data.splits.split import SYNTHETIC
from engine.device import is_out_of_memory
from engine.recipe import Recipe
from engine.stages import STAGES, Stage

ZIP_START = b"PK\x03\x04"
FORMAT = 4  # to be raised when an older version could not read the file, or would compute something else with it
BEST = "best.pt"  # in the folder of a finished run
DEFAULT_CHECKPOINTS = WORKSPACE / "checkpoints"
TIME_FORMAT = "%Y_%m_%d_%H_%M_%S"
_TIME = re.compile(r"\d{4}(_\d{2}){5}")


@dataclass(frozen=True)
class Checkpoint:
    """A network with everything that is needed to use it, and to go on training it.

    Attributes:
        stage: Name of the stage.
        split: Name of the split, such as the centre that is held out.
        split_hash: Hash of the cases in the parts of the split.
        data_hash: Hash of the training and validation cases as they were prepared when the training began.
        recipe: All settings.
        spacing_range: Finest and coarsest voxel size (z, y, x) in mm of the training cases; None if unknown.
        epoch: Epochs that the weights were trained for.
        net: State of the network; in ``best.pt`` the average of the weights, where that is better.
        thresholds: Thresholds of each readout and of its tumour score, chosen on the validation cases; only in
            ``best.pt``.
        confirms: Whether what the network finds has to be found around the pancreas, too, as when its thresholds were
            chosen.
        best_dice: Best validation Dice so far; None before the first validation, or without validation cases.
        optimiser: State of the optimiser; only in ``last.pt``.
        average: Moving average of the weights, with the number of steps in it; only in ``last.pt``.
        memory: Anchors that the contrast of tissues remembers; only in ``last.pt``.
    """

    stage: str
    split: str
    split_hash: str
    data_hash: str
    recipe: Recipe
    spacing_range: Sequence[Sequence[float]] | None
    epoch: int
    net: dict[str, Tensor]
    thresholds: dict[str, float] = field(default_factory=dict)
    confirms: bool = False
    best_dice: float | None = None
    optimiser: dict[str, Any] | None = None
    average: dict[str, Any] | None = None
    memory: dict[str, Tensor] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: the file at ``path`` is complete at all times.

    Raises:
        OSError: If the disk is full or the folder cannot be written to.
    """
    content = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}
    content |= {"format": FORMAT, "recipe": checkpoint.recipe.to_record()}
    with replacing(path) as unfinished:
        try:
            torch.save(content, unfinished)
        except RuntimeError as error:  # this is how torch's writer reports a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def load_checkpoint(path: Path, stage: str, store: Path | None = None) -> Checkpoint:
    """Read a checkpoint of ``stage`` onto the CPU; nothing in the file is executed.

    Args:
        path: The file, in its run folder.
        stage: Name of the stage.
        store: Folder of the prepared cases, for the command that an error names; None for the default folder.

    Raises:
        InputError: If the file is missing, damaged, holds code, or belongs to another stage or another format. It names
            the command that trains a new one.
    """
    folders = path.absolute().parents  # of a run: <checkpoints>/<stage>/<split>/<time>
    in_run = len(folders) > 3 and folders[2].name == stage
    split, checkpoints = (folders[1].name, folders[3]) if in_run else (None, DEFAULT_CHECKPOINTS)
    command = stage_command(STAGES[stage], "train", split=split, checkpoints=checkpoints, store=store)
    remedy = {"remedy": "train this stage again", "command": command}
    if not path.exists():
        raise InputError(path, "no such checkpoint", **remedy)
    return parse_checkpoint(path, path, stage, **remedy)


def parse_checkpoint(
    source: Path | BytesIO, name: Path | str, stage: str | None, remedy: str, command: str = ""
) -> Checkpoint:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    Args:
        source: A file that exists, or its content.
        name: What to call it in messages.
        stage: Name of its stage; None for any.
        remedy: What to do if it cannot be used.
        command: The command that does it.

    Raises:
        InputError: As for ``load_checkpoint``.
    """
    if not _starts_as_archive(source):
        raise InputError(name, "the file is truncated or damaged", remedy, command=command)
    return read_fields(load_tensors(source, remedy, command, name=name), name, stage, remedy, command)


def read_fields(
    content: Mapping[str, Any], name: Path | str, stage: str | None, remedy: str, command: str = ""
) -> Checkpoint:
    """Return the checkpoint whose fields were loaded by ``load_tensors``; the rest is as in ``parse_checkpoint``."""
    blame = {"remedy": remedy, "command": command}
    content = dict(content)
    found = content.pop("format", None)
    if found != FORMAT:
        what = f"a checkpoint of format {found}" if isinstance(found, int) else "not a checkpoint of this project"
        raise InputError(name, f"{what}, where format {FORMAT} is read", **blame)
    of = str(content.get("stage"))
    if stage not in (None, of):
        raise InputError(name, f"belongs to the stage {of}, not {stage}", f"give a run of {stage}")
    if of not in STAGES:
        raise InputError(name, f"belongs to the stage {of}, which this version does not have", **blame)
    try:
        checkpoint = Checkpoint(**{**content, "recipe": Recipe.from_record(content["recipe"])})
        _check_fields(checkpoint)
    except (TypeError, KeyError, AttributeError, ValueError, InputError) as error:
        reason = " ".join(str(error).split())
        raise InputError(name, f"its record is incomplete or out of range ({reason})", **blame) from error
    return checkpoint


def load_tensors(
    source: Path | BytesIO, remedy: str, command: str = "", *, name: Path | str | None = None
) -> dict[str, Any]:
    """Load fields that ``torch.save`` wrote: tensors and plain values. Nothing in the file is executed.

    A file that is a zip archive, as torch has written since version 1.6, is compared with its checksums first. Older
    files have none.

    Args:
        source: The file, which exists, or its content.
        remedy: What to do if it cannot be used.
        command: The command that does it.
        name: What to call it in messages; None for its path.

    Raises:
        InputError: If the file is damaged, holds code or no fields, or does not fit into the memory.
    """
    path = name or str(source)
    if _starts_as_archive(source) and not _is_whole_archive(source):
        raise InputError(path, "the file is truncated or damaged", remedy, command=command)
    if isinstance(source, BytesIO):
        source.seek(0)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "the file holds more than tensors and numbers and is not opened"
        raise InputError(path, problem, remedy, command=command) from error
    except OSError:
        raise
    except Exception as error:  # torch passes on whatever its own parser of pickles raises for a damaged file
        if is_out_of_memory(error):
            raise InputError(path, "does not fit into the memory", "close other programs and try again") from error
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(path, f"not a checkpoint ({lines[0]})", remedy, command=command) from error
    if not isinstance(content, dict):
        raise InputError(path, "not a checkpoint (it holds no fields)", remedy, command=command)
    return content


def _starts_as_archive(source: Path | BytesIO) -> bool:
    if isinstance(source, BytesIO):
        return source.getbuffer()[: len(ZIP_START)] == ZIP_START
    with source.open("rb") as file:
        return file.read(len(ZIP_START)) == ZIP_START


def _is_whole_archive(source: Path | BytesIO) -> bool:
    """Return whether the file is a zip archive, as torch writes it, whose members all match their checksums.

    Torch does not compress its archives, so a member that would unpack to something larger is not read.
    """
    try:
        with ZipFile(source) as archive:
            return all(m.compress_type == ZIP_STORED for m in archive.infolist()) and archive.testzip() is None
    except MemoryError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position before the beginning of the file, which a damaged archive names
            raise
        return False
    except Exception:  # zipfile raises a dozen types on damaged archives; none of them says anything else
        return False


def _check_fields(checkpoint: Checkpoint) -> None:
    """Check the types of the fields, because everything else takes them for granted.

    Raises:
        ValueError: If a field holds something else.
    """
    texts = (checkpoint.split, checkpoint.split_hash, checkpoint.data_hash)
    ranges = checkpoint.spacing_range
    sound = {
        "split": all(isinstance(text, str) for text in texts),
        "epoch": type(checkpoint.epoch) is int and checkpoint.epoch >= 0,
        "net": all(isinstance(t, Tensor) and t.is_floating_point() for t in checkpoint.net.values()),
        "thresholds": all(isinstance(t, float) and 0 <= t <= 1 for t in checkpoint.thresholds.values()),
        "confirms": isinstance(checkpoint.confirms, bool),
        "best_dice": checkpoint.best_dice is None or isinstance(checkpoint.best_dice, float),
        "spacing_range": ranges is None or ([len(s) for s in ranges] == [3, 3] and min(map(min, ranges)) > 0),
        "optimiser": checkpoint.optimiser is None or isinstance(checkpoint.optimiser, dict),
        "average": checkpoint.average is None or isinstance(checkpoint.average, dict),
        "memory": checkpoint.memory is None or all(isinstance(t, Tensor) for t in checkpoint.memory.values()),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise ValueError(f"{wrong[0]} is not what it should be")


def stage_command(
    stage: Stage, action: str, *, split: str | None, checkpoints: Path, store: Path | None, more: Sequence[str] = ()
) -> str:
    """Return the command that trains or evaluates a stage, ready to paste into a shell.

    Args:
        stage: Of the cascade.
        action: "train" or "evaluate".
        split: Name of the split; None for all.
        checkpoints: Folder of all runs; the default folder is not named.
        store: Folder of the prepared cases; the default folder, or None, is not named.
        more: Further words.
    """
    chosen = ["--train-on", split] if (split, action) == (SYNTHETIC, "train") else ["--data", split] if split else []
    words = [*shlex.split(stage.script(action)), *chosen]
    words += ["--store", str(store)] if store not in (None, DEFAULT_STORE) else []
    words += ["--path", str(checkpoints)] if Path(checkpoints) != DEFAULT_CHECKPOINTS else []
    return shlex.join([*words, *more])


def create_run(checkpoints: Path, stage: Stage, split: str) -> Path:
    """Create the folder of a new run, named by the time.

    The newest run is the one whose name is the latest. If a run with this or a later time exists, because two runs
    were started in the same second or by machines whose clocks differ, the new one is named one second after it.

    Raises:
        InputError: If no folder can be created there.
    """
    make_folder(Path(checkpoints) / stage.name / split)
    while True:
        now = time.strftime(TIME_FORMAT)
        runs = list_runs(checkpoints, stage, split)
        if runs and runs[-1].name >= now:
            newest = datetime.strptime(runs[-1].name, TIME_FORMAT)
            now = (newest + timedelta(seconds=1)).strftime(TIME_FORMAT)
        folder = Path(checkpoints) / stage.name / split / now
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue  # another process has just taken this name


def list_runs(checkpoints: Path, stage: Stage, split: str) -> list[Path]:
    """Return the runs of a stage and split, oldest first."""
    folders = (Path(checkpoints) / stage.name / split).glob("*")
    return sorted(path for path in folders if path.is_dir() and _is_time(path.name))


def _is_time(name: str) -> bool:
    try:
        return bool(_TIME.fullmatch(name) and datetime.strptime(name, TIME_FORMAT))
    except ValueError:
        return False


def load_newest(checkpoints: Path, stage: Stage, split: str, store: Path) -> tuple[Path, Checkpoint] | None:
    """Load the state in which the newest run of a stage and split was left.

    Returns:
        The run folder and its ``last.pt``; None if there is no run, or no finished epoch.

    Raises:
        InputError: As for ``load_checkpoint``.
    """
    runs = list_runs(checkpoints, stage, split)
    if not runs or not (runs[-1] / "last.pt").exists():
        return None
    return runs[-1], load_checkpoint(runs[-1] / "last.pt", stage.name, store)


def find_runs(
    checkpoints: Path,
    stage: Stage,
    split: str,
    *,
    at: str | None = None,
    until: str | None = None,
    store: Path | None = None,
) -> list[Path]:
    """Return the finished runs of a stage and split, at least one, oldest first.

    Args:
        checkpoints: Folder of all runs.
        stage: Of the cascade.
        split: Name of the split, such as the centre that is held out.
        at: Only the run of exactly this time.
        until: Only runs that were started at this time or before.
        store: Folder of the prepared cases, for the command that an error names; None for the default folder.

    Raises:
        InputError: If there is none; it names the command that trains one, or that finishes an interrupted one.
    """
    runs = list_runs(checkpoints, stage, split)
    if at is not None:
        runs = [run for run in runs if run.name == at]
    if until is not None:
        runs = [run for run in runs if run.name <= until]
    if finished := [run for run in runs if (run / BEST).exists()]:
        return finished
    command = stage_command(stage, "train", split=split, checkpoints=checkpoints, store=store)
    if runs:
        problem = f"the training of {stage.title} is not finished, so there is no model to use yet"
        raise InputError(
            runs[-1], problem, "finish it with the options that it was started with", command=f"{command} --resume"
        )
    which = f" of {at}" if at else f" until {until}" if until else ""
    folder = Path(checkpoints) / stage.name / split
    raise InputError(folder, f"no trained {stage.title} model{which}", "train one", command=command)


def find_run(
    checkpoints: Path,
    stage: Stage,
    split: str,
    *,
    at: str | None = None,
    until: str | None = None,
    store: Path | None = None,
) -> Path:
    """Return the newest finished run of a stage and split; arguments and errors as of ``find_runs``."""
    return find_runs(checkpoints, stage, split, at=at, until=until, store=store)[-1]
