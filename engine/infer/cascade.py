"""The cascade at inference: every stage segments in a box around the mask of an earlier stage.

    pancreas coarse ──▶ pancreas fine ──▶ tumour coarse ──▶ tumour fine

All masks of the cascade have the voxels of the prepared image: what a stage hands to the next one is never resampled.
``predict.py`` runs the four stages in one process, the evaluation scripts run one stage at a time and keep its masks.
Both use ``select_roi``, ``select_organ`` and ``segment_stage`` and therefore obtain the same masks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from data.cases.labels import PANCREAS, TUMOUR
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.memory import zeros
from data.common.process import release_freed_pages
from data.samples import Sampling, fits_patch, mask_box, scan_box
from data.scans.boxes import Box
from data.scans.grid import volume_ml
from engine.checkpoint import find_run, load_checkpoint
from engine.infer.box import FLIPS, NO_FLIPS, READOUTS, segment_box
from engine.infer.confirmation import confirm
from engine.stages import MIN_TUMOUR_ML, STAGES, Stage

# The limits below decide how the stages follow each other. Volumes are in ml, so that they mean the same for any voxel
# size; as voxels they are given for a clinical voxel of 0.8 x 0.8 x 2 mm.

# A later round of a stage is discarded if its mask is smaller than this (80 voxels): its box has lost the target.
MIN_ROUND_ML = 0.1
# Two rounds agree if their masks have at least this Dice: their boxes are then nearly the same, and so would be the
# result of another round.
CONVERGED_DICE = 0.92
# A scan gets a note if its voxels are more than this factor coarser than those of all training cases and than those
# that the network sees: it has never seen so little detail. Finer voxels are averaged.
FAMILIAR_SPACING_FACTOR = 1.5


@dataclass(frozen=True)
class StageModel:
    """A trained stage, ready to segment.

    Attributes:
        stage: With the method and the sampling of the checkpoint.
        net: The network in evaluation mode on ``device``.
        readout: Name in ``engine.infer.box.READOUTS``.
        threshold: Probabilities above it are foreground.
        device: Where to compute.
        run: The run folder that the network comes from.
        epoch: Epochs that its weights were trained for.
        split_hash: Hash of the cases in the parts of its split.
        preparation: How its training cases were prepared.
        spacing_range: Finest and coarsest voxel size (z, y, x) in mm of its training cases; None if unknown.
        fast: Whether it computes every box once instead of averaging over the eight flips.
        confirms: Whether what it finds has to be found around the pancreas, too.
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
    confirms: bool = False


class StageResult(NamedTuple):
    """What one stage makes of a scan.

    Attributes:
        mask: Boolean mask of the whole scan, shape (D, H, W).
        note: What a reader of the result should know; empty if there is nothing.
        doubt: Why the mask is not reliable; empty if nothing speaks against it.
    """

    mask: np.ndarray
    note: str
    doubt: str = ""


class CascadeResult(NamedTuple):
    """What the whole cascade makes of a scan.

    Attributes:
        label: uint8 labels 0/1/2, shape (D, H, W).
        notes: What a reader of the result should know.
        doubts: Why the result is not reliable; empty if nothing speaks against it.
    """

    label: np.ndarray
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def check_runs_folder(checkpoints: Path) -> None:
    """Check that the folder of all runs exists, so that one line says so instead of one for each missing model.

    Raises:
        InputError: If it does not.
    """
    if not checkpoints.is_dir():
        raise InputError(checkpoints, "no such folder", "give the folder of the trained models with --path")


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
    stage = STAGES[stage_name]
    run = find_run(checkpoints, stage, split, at=at, until=until, store=store)
    checkpoint = load_checkpoint(run / "best.pt", stage_name, store)
    recipe = checkpoint.recipe
    stage = replace(stage, method=recipe.method, sampling=recipe.sampling)
    if readout not in checkpoint.thresholds:
        problem = "the network has no distance head, so the two tasks cannot be averaged"
        raise InputError(run / "best.pt", problem, "leave out --average")
    net = recipe.build_network(device)
    try:
        net.load_state_dict(checkpoint.net)
    except RuntimeError as error:
        problem = f"its parameters are not those of the network of {stage.title}"
        raise InputError(run / "best.pt", problem, "train this stage again", command=stage.script("train")) from error
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
        confirms=stage.confirms(recipe.training.negatives),
    )


def segment_scan(
    models: Mapping[str, StageModel], image: np.ndarray, spacing: tuple[float, float, float]
) -> CascadeResult:
    """Segment the pancreas and its tumours in one scan with all four stages.

    Args:
        models: The models by the name of their stage, in the order of the cascade.
        image: int16 HU, shape (D, H, W), prepared like the training cases of the models.
        spacing: Voxel spacing (z, y, x) in mm.
    """
    notes: list[str] = []
    unfamiliar = describe_unfamiliar_spacing(list(models.values()), spacing)
    doubts = (unfamiliar,) if unfamiliar else ()
    masks: dict[str, np.ndarray] = {}
    for position, (name, model) in enumerate(models.items(), start=1):
        roi, fallback_note = select_roi(model.stage, masks, spacing)
        masks[name], note, _ = segment_stage(model, image, spacing, roi, select_organ(model.stage, masks))
        notes += [fallback_note, note]
        needed = {name, "pancreas_fine"}.union(*(later.stage.before for later in list(models.values())[position:]))
        masks = {kept: mask for kept, mask in masks.items() if kept in needed}  # each may have 1 GB
        if model.stage.sampling.target == "pancreas" and not masks[name].any():
            empty = zeros(image.shape, np.uint8)
            return CascadeResult(empty, (), (*doubts, "no pancreas found: the mask is empty"))
    release_freed_pages()  # of the network: the label and its copies need them now
    label = merge_labels(masks["pancreas_fine"], masks["tumor_fine"])
    return CascadeResult(label, tuple(filter(None, notes)), doubts)


def select_roi(
    stage: Stage, masks: Mapping[str, np.ndarray], spacing: tuple[float, float, float]
) -> tuple[np.ndarray | None, str]:
    """Select the mask around which a stage looks.

    It is the mask of the predecessor. A stage with a fallback uses the fallback's mask if the predecessor found less
    than ``MIN_TUMOUR_ML``.

    Args:
        stage: The stage that is going to look.
        masks: The masks of the stages ``stage.before`` by name, each of shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        The mask, or None for the first stage, which reads the whole scan; and a note if it is the fallback's.
    """
    if stage.predecessor is None:
        return None, ""
    roi = masks[stage.predecessor]
    volume = volume_ml(roi, spacing)
    if stage.fallback is None or volume >= MIN_TUMOUR_ML:
        return roi, ""
    predecessor, fallback = STAGES[stage.predecessor].title, STAGES[stage.fallback].title
    note = f"{predecessor} found {volume:.3f} ml, so {stage.title} looked around the mask of {fallback}"
    return masks[stage.fallback], note


def select_organ(stage: Stage, masks: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Select the mask of the pancreas, in which a tumour has to lie; None for the stages that segment the pancreas.

    Args:
        stage: The stage that is going to segment.
        masks: As for ``select_roi``.
    """
    return None if stage.segments_pancreas else masks["pancreas_fine"]


def segment_stage(
    model: StageModel,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    roi: np.ndarray | None = None,
    organ: np.ndarray | None = None,
) -> StageResult:
    """Segment one scan with one stage.

    Args:
        model: The trained stage.
        image: int16 HU, shape (D, H, W), in LPS.
        spacing: Voxel spacing (z, y, x) in mm.
        roi: The mask around which to look, shape (D, H, W); None for the first stage, which reads the whole scan.
        organ: The mask in which the components of the result have to lie, shape (D, H, W); None for anywhere.
    """
    sampling = model.stage.sampling
    box = scan_box(image, spacing, sampling) if roi is None else mask_box(roi, spacing, sampling)
    if box is None:
        return StageResult(zeros(image.shape, bool), f"{model.stage.title}: the stage before it found nothing")

    def segment(box: Box) -> np.ndarray:
        mask = zeros(image.shape, bool)
        segment_box(
            model.net,
            image[box.slices],
            spacing,
            model.threshold,
            stage=model.stage,
            device=model.device,
            readout=model.readout,
            flips=NO_FLIPS if model.fast else FLIPS,
            within=None if organ is None else organ[box.slices],
            out=mask[box.slices],
        )
        return mask

    around = mask_box(organ, spacing, sampling) if model.confirms and organ is not None else None
    mask = confirm(segment_in_rounds(segment, box, spacing, sampling), box, around, segment)
    note = "" if mask.any() else f"{model.stage.title}: nothing found"
    return StageResult(mask, note, describe_unfamiliar_spacing([model], spacing))


def segment_in_rounds(
    segment: Callable[[Box], np.ndarray], box: Box, spacing: tuple[float, float, float], sampling: Sampling
) -> np.ndarray:
    """Segment in a box, and again around the mask that results, as often as the sampling has rounds.

    It stops early if the box or the mask no longer changes, or if the box would be larger than what the network sees at
    a time, as around a mask that fills everything. It keeps the last mask if a round loses the target.

    Args:
        segment: Returns the mask of the whole scan, shape (D, H, W), that is found in a box.
        box: Of the first round.
        spacing: Voxel spacing (z, y, x) in mm.
        sampling: Of the stage.
    """
    mask = segment(box)
    for _ in range(sampling.rounds - 1):
        next_box = mask_box(mask, spacing, sampling)
        if next_box is None or next_box == box or not fits_patch(next_box, spacing, sampling):
            break
        box, previous = next_box, mask
        mask = segment(box)
        if volume_ml(mask, spacing) < MIN_ROUND_ML:
            return previous
        if _dice(mask, previous) >= CONVERGED_DICE:
            break
    return mask


def merge_labels(pancreas: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """Merge two boolean masks into uint8 labels 0/1/2; the tumour lies on top of the pancreas."""
    label = zeros(pancreas.shape, np.uint8)
    label[pancreas] = PANCREAS
    label[tumour] = TUMOUR
    return label


def describe_unfamiliar_spacing(models: Sequence[StageModel], spacing: tuple[float, float, float]) -> str:
    """Say whether the voxels of a scan are coarser than all that the stages were trained on.

    Args:
        models: The stages that segment the scan.
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        One sentence for all stages; it names them unless it holds for every one. Empty if the voxels are familiar.
    """
    unfamiliar: list[str] = []
    sentence = ""
    for model in models:
        if model.spacing_range is None:
            continue
        trained = list(zip(*model.spacing_range, strict=True))
        limits = [max(high, mm) for (_, high), mm in zip(trained, model.stage.sampling.target_mm, strict=True)]
        if all(s <= FAMILIAR_SPACING_FACTOR * limit for s, limit in zip(spacing, limits, strict=True)):
            continue
        unfamiliar.append(model.stage.title)
        if not sentence:
            voxels = " x ".join(f"{s:.2g}" for s in spacing)
            expected = " x ".join(f"{low:.2g}-{high:.2g}" for low, high in trained)
            sentence = f"the voxels of {voxels} mm are coarser than those of the training ({expected} mm)"
    return f"{sentence} in {', '.join(unfamiliar)}" if 0 < len(unfamiliar) < len(models) else sentence


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two boolean masks; 0 if both are empty."""
    common = sum(np.count_nonzero(a & b) for a, b in zip(first, second, strict=True))  # a plane at a time
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * int(common) / max(1, int(total))
