"""The cascade at inference: stage after stage, each in the box of the mask before it, on the scan's own grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from data.cases.labels import PANCREAS, TUMOUR
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.samples import mask_box, network_spacing, scan_box
from data.scans.boxes import Box
from data.scans.grid import volume_ml
from engine.checkpoint import find_run, load_checkpoint
from engine.device import avoid_slow_convolutions
from engine.infer.box import box_probability, keep_large_components
from engine.stages import STAGES, Stage
from models.dual_task_net import DualTaskNet

MIN_TUMOUR_ML = 0.012  # about 10 clinical voxels: less is no tumour found
MIN_ROUND_ML = 0.1  # about 80: a round's mask that is smaller does not replace the last one
AGREED_DICE = 0.92  # of two rounds: the next would change nothing
FAMILIAR = 1.5  # voxels as much finer or coarser than all of the training are worth a note: a network sees no mm


@dataclass(frozen=True)
class StageModel:
    """A trained stage, ready to segment; the ``threshold`` of the ``readout`` was chosen on its validation cases."""

    stage: Stage
    net: nn.Module
    readout: str
    threshold: float
    device: torch.device
    run: Path
    epoch: int
    split_hash: str
    preparation: Preparation  # of the cases that it was trained on
    spacing_range: Sequence[Sequence[float]] | None = None  # finest and coarsest (z, y, x) mm that the network met


class StageResult(NamedTuple):
    """mask: boolean (D, H, W), whole scan. note: what a reader of the result should know, "" for nothing."""

    mask: np.ndarray
    note: str


class CascadeResult(NamedTuple):
    """label: uint8 (D, H, W), 0/1/2. notes: one line each."""

    label: np.ndarray
    notes: tuple[str, ...]


def load_model(
    checkpoints: Path,
    stage_name: str,
    held_out: str,
    device: torch.device,
    at: str | None = None,
    threshold: float | None = None,
    until: str | None = None,
    readout: str = "segmentation",
) -> StageModel:
    """The newest model of a stage and split (``until`` a time), or that of the time ``at``.

    Raises InputError naming the script that makes it, or where the model has not the heads that ``readout`` needs.
    """
    stage = STAGES[stage_name]
    run = find_run(checkpoints, stage, held_out, at, until)
    checkpoint = load_checkpoint(run / "best.pt", stage_name)
    recipe = checkpoint.recipe
    stage = replace(stage, method=recipe.method, sampling=recipe.sampling)
    if readout not in checkpoint.thresholds:
        raise InputError(run / "best.pt", "has no distance head to average with", "leave out --average")
    net = DualTaskNet(width=recipe.network.width, heads=stage.method.heads)
    try:
        net.load_state_dict(checkpoint.net)
    except RuntimeError as error:
        raise InputError(
            run / "best.pt", f"not the network of {stage_name}", "train again", command=stage.script("train")
        ) from error
    net = net.to(device, memory_format=torch.channels_last_3d).eval()
    avoid_slow_convolutions(net)
    return StageModel(
        stage=stage,
        net=net,
        readout=readout,
        threshold=checkpoint.thresholds[readout] if threshold is None else threshold,
        device=device,
        run=run,
        epoch=checkpoint.epoch,
        split_hash=checkpoint.split_hash,
        preparation=recipe.preparation,
        spacing_range=checkpoint.spacing_range,
    )


def segment_stage(
    model: StageModel, image: np.ndarray, spacing: tuple[float, float, float], roi: np.ndarray | None = None
) -> StageResult:
    """One stage on one scan.

    Args:
        image: int16 HU (D, H, W), LPS. spacing: (z, y, x) mm.
        roi: the mask of the stage before, (D, H, W); None for the first stage, which reads the whole scan.
    """
    sampling = model.stage.sampling
    box = scan_box(image.shape, spacing, sampling) if roi is None else mask_box(roi, spacing, sampling.margin_mm)
    if box is None:
        return StageResult(np.zeros(image.shape, bool), f"{model.stage.title}: the stage before found nothing")
    mask = _segment_box(model, image, spacing, box)
    for _ in range(sampling.rounds - 1):
        again = mask_box(mask, spacing, sampling.margin_mm)
        if again is None or again == box:
            break
        box, before = again, mask
        mask = _segment_box(model, image, spacing, box)
        if volume_ml(mask, spacing) < MIN_ROUND_ML:
            mask = before
            break
        if _dice(mask, before) >= AGREED_DICE:
            break
    nothing = "" if mask.any() else f"{model.stage.title}: nothing found"
    return StageResult(mask, "; ".join(filter(None, (nothing, _unfamiliar(model, spacing)))))


def select_roi(
    stage: Stage, masks: Mapping[str, np.ndarray], spacing: tuple[float, float, float]
) -> tuple[np.ndarray | None, str]:
    """The mask around which ``stage`` looks, and a note where that is its fallback's instead of its predecessor's.

    Args:
        masks: by stage name, those of ``stage.before``, each (D, H, W). None is returned for the first stage.
    """
    if stage.predecessor is None:
        return None, ""
    roi = masks[stage.predecessor]
    volume = volume_ml(roi, spacing)
    if stage.fallback is None or volume >= MIN_TUMOUR_ML:
        return roi, ""
    before, instead = STAGES[stage.predecessor].title, STAGES[stage.fallback].title
    return masks[stage.fallback], f"{before}: {volume:.3f} ml found, {stage.title} looks around {instead}'s mask"


def segment_scan(
    models: Mapping[str, StageModel], image: np.ndarray, spacing: tuple[float, float, float]
) -> CascadeResult:
    """All four stages on one scan, in the order of ``models``. The tumour lies on top of the pancreas."""
    notes = []
    masks: dict[str, np.ndarray] = {}
    for name, model in models.items():
        roi, hint = select_roi(model.stage, masks, spacing)
        masks[name], note = segment_stage(model, image, spacing, roi)
        notes += [hint, note]
        if model.stage.sampling.target == "pancreas" and not masks[name].any():
            return CascadeResult(np.zeros(image.shape, np.uint8), ("no pancreas found: the mask is empty",))
    return CascadeResult(merge_labels(masks["pancreas_fine"], masks["tumor_fine"]), tuple(filter(None, notes)))


def _unfamiliar(model: StageModel, spacing: tuple[float, float, float]) -> str:
    """A note where the scan's voxels are far from all that the stage was trained on; "" where they are not."""
    if model.spacing_range is None:
        return ""
    seen, met = network_spacing(spacing, model.stage.sampling), list(zip(*model.spacing_range, strict=True))
    if all(low / FAMILIAR <= s <= FAMILIAR * high for s, (low, high) in zip(seen, met, strict=True)):
        return ""
    trained = " x ".join(f"{low:.2g}-{high:.2g}" for low, high in met)
    voxels = " x ".join(f"{s:.2g}" for s in seen)
    return f"{model.stage.title}: voxels of {voxels} mm, trained on {trained}: not to be relied on"


def merge_labels(pancreas: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """Two masks -> labels 0/1/2."""
    return np.where(tumour, TUMOUR, np.where(pancreas, PANCREAS, 0)).astype(np.uint8)


def _segment_box(model: StageModel, image: np.ndarray, spacing: tuple[float, float, float], box: Box) -> np.ndarray:
    probability = box_probability(model.net, image[box.slices], spacing, model.stage, model.device, model.readout)
    mask = np.zeros(image.shape, bool)
    mask[box.slices] = keep_large_components(probability > model.threshold)
    return mask


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / max(1, np.count_nonzero(first) + np.count_nonzero(second))
