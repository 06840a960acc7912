"""Checkpoints and run folders: atomic to save, safe to load, easy to find.

checkpoints/<stage>/<held-out>/<YYYY_MM_DD_HH_MM_SS>/last.pt    everything needed to go on
                                                     best.pt    the best on validation, with its threshold
"""

import errno
import os
import pickle
import re
import struct
import time
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from data.common.errors import InputError
from data.common.files import REPOSITORY, replacing
from engine.stages import STAGES, Stage

FORMAT = 2
DEFAULT_CHECKPOINTS = REPOSITORY / "checkpoints"
TIME_FORMAT = "%Y_%m_%d_%H_%M_%S"
# What torch raises for files that are cut or altered.
_DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    BadZipFile,
)
_TIME = re.compile(r"\d{4}(_\d{2}){5}")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts; the file at ``path`` is always a whole one."""
    with replacing(path) as unfinished:
        try:
            torch.save({"format": FORMAT, **content}, unfinished)
        except RuntimeError as error:  # how torch's writer reports a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def load_checkpoint(path: Path, stage: str) -> dict[str, Any]:
    """Read a checkpoint of ``stage`` onto the CPU; nothing in the file is executed.

    Raises InputError where the file is missing, damaged, holds code, or belongs to another stage or format.
    """
    again = f"train again with {STAGES[stage].script('train')}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint; {again}") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: holds more than tensors and numbers, or is damaged; not opened; {again}") from error
    except PermissionError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: truncated or damaged; {again}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this project's format {FORMAT}; {again}")
    if content["stage"] != stage:
        raise InputError(f"{path}: belongs to the stage {content['stage']}, not {stage}; give the run of {stage}")
    return content


def path_option(checkpoints: Path) -> str:
    """What a printed command needs to look where this one looked."""
    return "" if Path(checkpoints) == DEFAULT_CHECKPOINTS else f" --path {checkpoints}"


def new_run(checkpoints: Path, stage: Stage, held_out: str) -> Path:
    """Make the folder of a new run, stamped with the time; a second run within a second waits for the next."""
    while True:
        folder = Path(checkpoints) / stage.name / held_out / time.strftime(TIME_FORMAT)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(0.2)


def list_runs(checkpoints: Path, stage: Stage, held_out: str) -> list[Path]:
    """The runs of a stage and split, oldest first."""
    folders = (Path(checkpoints) / stage.name / held_out).glob("*")
    return sorted(path for path in folders if path.is_dir() and _TIME.fullmatch(path.name))


def find_run(checkpoints: Path, stage: Stage, held_out: str, at: str | None = None, until: str | None = None) -> Path:
    """The newest finished run: that of the time ``at``, or the newest begun ``until`` a time.

    Raises InputError naming the script that makes it.
    """
    runs = [run for run in list_runs(checkpoints, stage, held_out) if (run / "best.pt").exists()]
    command = f"{stage.script('train')} --data {held_out}{path_option(checkpoints)}"
    if at is not None:
        runs = [run for run in runs if run.name == at]
    if until is not None:
        runs = [run for run in runs if run.name <= until]
    if not runs:
        which = f" of {at}" if at else f" until {until}" if until else ""
        place = Path(checkpoints) / stage.name / held_out
        raise InputError(f"{place}: no trained {stage.title} model{which}; run {command}")
    return runs[-1]
