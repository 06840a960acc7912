"""The trained stages: which run, or which model file, a network comes from, and how it is made ready to segment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.files import sha256_of
from engine.checkpoint import BEST, Checkpoint, find_run, load_checkpoint
from engine.infer.box import FLIPS, NO_FLIPS, READOUTS, Flip, flips_of
from engine.infer.candidates import score_threshold_name
from engine.infer.ensemble import Member
from engine.stages import STAGES, Stage
from engine.training_centres import read_centres


@dataclass(frozen=True)
class StageModel:
    """A trained stage, ready to segment.

    Attributes:
        stage: With the method and the sampling of the checkpoint.
        net: The network in evaluation mode on ``device``.
        readout: Name in ``engine.infer.box.READOUTS``.
        threshold: Probabilities above it are foreground.
        device: Where to compute.
        run: The run folder, or the model file, that the network comes from.
        epoch: Epochs that its weights were trained for.
        split_hash: Hash of the cases in the parts of its split.
        preparation: How its training cases were prepared.
        spacing_range: Finest and coarsest voxel size (z, y, x) in mm of its training cases; None if unknown.
        fast: Whether it computes every box once instead of averaging over flips.
        trained_flips: The flips that it was trained with.
        sha256: Of the checkpoint of ``net``; empty for a network that comes from none.
        score_threshold: Scans with at least this tumour score are called positive; None if none was chosen.
        confirms: Whether what it finds has to be found around the pancreas, too.
        only_synthetic: Whether it is known that it was trained on synthetic scans only.
        members: The networks of an ensemble, ``net`` among them, whose probabilities are averaged; none for a single
            network.
    """

    stage: Stage
    net: nn.Module
    readout: str
    threshold: float
    device: torch.device
    run: Path
    epoch: int
    split_hash: str
    preparation: Preparation
    spacing_range: Sequence[Sequence[float]] | None = None
    fast: bool = False
    trained_flips: tuple[Flip, ...] = FLIPS
    sha256: str = ""
    score_threshold: float | None = None
    confirms: bool = False
    only_synthetic: bool = False
    members: tuple[Member, ...] = ()

    @property
    def flips(self) -> tuple[Flip, ...]:
        """What its probabilities are averaged over."""
        return NO_FLIPS if self.fast else self.trained_flips


def switched_on(model: StageModel) -> list[str]:
    """Return which of its switches decide the mask and are on; records of results name these and no others."""
    return [name for name, is_on in (("fast", model.fast), ("confirms", model.confirms)) if is_on]


def describe_model(model: StageModel) -> str:
    """Return a line that says with what a stage segments."""
    fast = ", without flips" if model.fast else ""
    return f"{model.stage.title:<16} {name_runs(model)}, threshold {model.threshold:.4g}{fast}"


def describe_models(models: Mapping[str, StageModel]) -> list[str]:
    """Return a line for every stage, by the names of the stages, and one for the operating point if there is one."""
    lines = [describe_model(model) for model in models.values()]
    if (least := find_operating_point(models)) is not None:
        lines.append(f"operating point  a tumour score of at least {least:.3f} counts as positive")
    return lines


def find_operating_point(models: Mapping[str, StageModel]) -> float | None:
    """Return the least tumour score that counts as positive; None if no threshold was chosen."""
    last = models.get("tumor_fine")
    return last.score_threshold if last else None


def name_runs(model: StageModel) -> str:
    """Name the run folder, or the model file, of a stage; for an ensemble those of all its members."""
    return ", ".join(str(member.run) for member in model.members) or str(model.run)


def check_runs_folder(checkpoints: Path, instead: str = "") -> None:
    """Check that the folder of all runs exists, so that one line says so instead of one for each missing model.

    Args:
        checkpoints: The folder.
        instead: What can be given in place of it, for the error; empty if nothing can.

    Raises:
        InputError: If it does not.
    """
    if not checkpoints.is_dir():
        remedy = "give the folder of the trained models with --path"
        raise InputError(checkpoints, "no such folder", f"{remedy}, or {instead}" if instead else remedy)


def load_model(
    checkpoints: Path,
    stage_name: str,
    split: str,
    device: torch.device,
    *,
    at: str | None = None,
    until: str | None = None,
    threshold: float | None = None,
    readout: str = "segmentation",
    fast: bool = False,
    store: Path | None = None,
) -> StageModel:
    """Load the newest finished model of a stage and split.

    Args:
        checkpoints: Folder of all runs.
        stage_name: Name in ``STAGES``.
        split: Name of the split, such as the centre that is held out.
        device: Where to compute.
        at: Only the run of exactly this time.
        until: Only runs that were started at this time or before.
        threshold: Binarisation threshold; None for the one that was chosen on the validation cases.
        readout: Name in ``engine.infer.box.READOUTS``.
        fast: As in ``StageModel``.
        store: Folder of the prepared cases, for the command that an error names; None for the default folder.

    Raises:
        InputError: If there is no such run, its checkpoint cannot be used, or its network lacks the heads that the
            readout needs.
    """
    run = find_run(checkpoints, STAGES[stage_name], split, at=at, until=until, store=store)
    best = run / BEST
    checkpoint = load_checkpoint(best, stage_name, store)
    return build_model(
        checkpoint,
        best,
        device,
        run=run,
        sha256=sha256_of(best),
        threshold=threshold,
        readout=readout,
        fast=fast,
        only_synthetic=read_centres(run).only_synthetic,
    )


def build_model(
    checkpoint: Checkpoint,
    name: Path | str,
    device: torch.device,
    *,
    run: Path,
    sha256: str,
    threshold: float | None = None,
    readout: str = "segmentation",
    fast: bool = False,
    only_synthetic: bool = False,
) -> StageModel:
    """Build the network of a checkpoint, ready to segment.

    Args:
        checkpoint: Of a finished run.
        name: What to call it in messages.
        device: Where to compute.
        run: As in ``StageModel``.
        sha256: Of the file of the checkpoint.
        threshold: As for ``load_model``.
        readout: Name in ``engine.infer.box.READOUTS``.
        fast: As in ``StageModel``.
        only_synthetic: As in ``StageModel``.

    Raises:
        InputError: If its parameters are of another network, or it lacks the heads that the readout needs.
    """
    recipe = checkpoint.recipe
    stage = replace(STAGES[checkpoint.stage], method=recipe.method, sampling=recipe.sampling)
    if readout not in checkpoint.thresholds:
        has_heads = READOUTS[readout].heads <= set(recipe.method.heads)
        lack = (
            "threshold for the average of the two tasks" if has_heads else "distance head for the average of two tasks"
        )
        raise InputError(name, f"the network has no {lack}", "leave out --average")
    net = recipe.build_network(device)
    try:
        net.load_state_dict(checkpoint.net)
    except RuntimeError as error:
        problem = f"its parameters are not those of the network of {stage.title}"
        raise InputError(name, problem, "train this stage again", command=stage.script("train")) from error
    for head in set(recipe.method.heads) - READOUTS[readout].heads:
        setattr(net, head, None)  # nobody reads it
    return StageModel(
        stage=stage,
        net=net.eval(),
        readout=readout,
        threshold=checkpoint.thresholds[readout] if threshold is None else threshold,
        device=device,
        run=run,
        epoch=checkpoint.epoch,
        split_hash=checkpoint.split_hash,
        preparation=recipe.preparation,
        spacing_range=checkpoint.spacing_range,
        fast=fast,
        trained_flips=flips_of(recipe.augmentation.flip),
        sha256=sha256,
        score_threshold=checkpoint.thresholds.get(score_threshold_name(readout)),
        confirms=checkpoint.confirms,
        only_synthetic=only_synthetic,
    )
