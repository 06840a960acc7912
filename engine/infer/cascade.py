"""The cascade at inference: every stage segments in a box around the mask of an earlier stage.

    pancreas coarse ──▶ pancreas fine ──▶ tumour coarse ──▶ tumour fine

All masks of the cascade have the voxels of the prepared image: what a stage hands to the next one is never resampled.
``predict.py`` runs the four stages in one process, the evaluation scripts run one stage at a time and keep its masks.
Both use ``select_roi``, ``select_organ`` and ``segment_stage`` and therefore obtain the same masks.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR
from data.common.memory import zeros
from data.common.process import release_freed_pages
from data.samples import mask_box, scan_box
from data.scans.boxes import Box
from data.scans.grid import volume_ml
from engine.infer.box import segment_box
from engine.infer.candidates import NO_CANDIDATES, Candidates
from engine.infer.confirmation import segment_confirmed
from engine.infer.ensemble import NOWHERE, BoxProbability, Opinions, segment_box_together
from engine.infer.models import StageModel
from engine.stages import MIN_TUMOUR_ML, STAGES, Stage

# A scan gets a note if its voxels are more than this factor coarser than those of all training cases and than those
# that the network sees: it has never seen so little detail. Finer voxels are averaged.
FAMILIAR_SPACING_FACTOR = 1.5


class StageResult(NamedTuple):
    """What one stage makes of a scan.

    Attributes:
        mask: Boolean mask of the whole scan, shape (D, H, W).
        note: What a reader of the result should know; empty if there is nothing.
        doubt: Why the mask is not reliable; empty if nothing speaks against it.
        probability: The probability that the mask was made of, in the box of its round; None if it was not asked for.
    """

    mask: np.ndarray
    note: str
    doubt: str = ""
    probability: BoxProbability | None = None


class CascadeResult(NamedTuple):
    """What the whole cascade makes of a scan.

    Attributes:
        label: uint8 labels 0/1/2, shape (D, H, W).
        notes: What a reader of the result should know.
        doubts: Why the result is not reliable; empty if nothing speaks against it.
        candidates: Lesion candidates in the box of the last stage.
        probabilities: The probabilities of the stages that were asked for, by the name of the stage.
    """

    label: np.ndarray
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    candidates: Candidates = NO_CANDIDATES
    probabilities: Mapping[str, BoxProbability] = MappingProxyType({})


def segment_scan(
    models: Mapping[str, StageModel],
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    keep: Collection[str] = (),
) -> CascadeResult:
    """Segment the pancreas and its tumours in one scan with all four stages.

    Args:
        models: The models by the name of their stage, in the order of the cascade.
        image: int16 HU, shape (D, H, W), prepared like the training cases of the models.
        spacing: Voxel spacing (z, y, x) in mm.
        keep: Names of the stages whose probabilities are asked for.
    """
    notes: list[str] = []
    unfamiliar = describe_unfamiliar_spacing(list(models.values()), spacing)
    doubts = (unfamiliar,) if unfamiliar else ()
    masks: dict[str, np.ndarray] = {}
    candidates, probabilities = NO_CANDIDATES, {}
    for position, (name, model) in enumerate(models.items(), start=1):
        roi, fallback_note = select_roi(model.stage, masks, spacing)
        organ = select_organ(model.stage, masks)
        is_last = position == len(models)
        result = segment_stage(model, image, spacing, roi, organ, keep=is_last or name in keep)
        masks[name] = result.mask
        notes += [fallback_note, result.note]
        if is_last and result.probability:
            candidates = result.probability.find_candidates(spacing, organ)
        if name in keep and result.probability:
            probabilities[name] = result.probability
        needed = {name, "pancreas_fine"}.union(*(later.stage.before for later in list(models.values())[position:]))
        masks = {kept: mask for kept, mask in masks.items() if kept in needed}  # each may have 1 GB
        if model.stage.sampling.target == "pancreas" and not masks[name].any():
            empty = zeros(image.shape, np.uint8)
            doubts = (*doubts, "no pancreas found: the mask is empty")
            return CascadeResult(empty, (), doubts, probabilities=probabilities)
    release_freed_pages()  # of the network: the label and its copies need them now
    label = merge_labels(masks["pancreas_fine"], masks["tumor_fine"])
    return CascadeResult(label, tuple(filter(None, notes)), doubts, candidates, probabilities)


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
    note = f"{stage.title} looked around the mask of {fallback}"
    note += f", as {predecessor} found {volume:.3f} ml only" if volume else ""
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
    *,
    keep: bool = False,
) -> StageResult:
    """Segment one scan with one stage.

    Args:
        model: The trained stage.
        image: int16 HU, shape (D, H, W), in LPS.
        spacing: Voxel spacing (z, y, x) in mm.
        roi: The mask around which to look, shape (D, H, W); None for the first stage, which reads the whole scan.
        organ: The mask in which the components of the result have to lie, shape (D, H, W); None for anywhere.
        keep: Whether the probability is asked for.
    """
    sampling = model.stage.sampling
    box = scan_box(image, spacing, sampling) if roi is None else mask_box(roi, spacing, sampling)
    if box is None:
        nothing = f"{model.stage.title}: the stage before it found nothing"
        return StageResult(zeros(image.shape, bool), nothing, probability=NOWHERE if keep else None)

    kept: dict[Box, BoxProbability] = {}

    def segment(box: Box) -> np.ndarray:
        mask = zeros(image.shape, bool)
        part, within = image[box.slices], None if organ is None else organ[box.slices]
        probability = np.empty(box.shape, np.float32) if keep else None
        opinions = segment_part(model, part, spacing, within=within, out=mask[box.slices], probability=probability)
        if probability is not None:
            kept[box] = BoxProbability(box, probability, opinions)
        return mask

    around = mask_box(organ, spacing, sampling) if model.confirms and organ is not None else None
    mask, box, left_out, left_out_ml = segment_confirmed(segment, box, around, spacing, sampling)
    if box in kept:
        kept[box].values[left_out[box.slices]] = 0.0  # what was not confirmed is no candidate
    seen = box if mask.any() or around is None else around  # where candidates are looked for
    remarks = [f"{left_out_ml:.2f} ml left out that were not found around the pancreas, too"] if left_out_ml else []
    remarks += [] if mask.any() else ["nothing found"]
    note = f"{model.stage.title}: {'; '.join(remarks)}" if remarks else ""
    return StageResult(mask, note, describe_unfamiliar_spacing([model], spacing), kept.get(seen, kept.get(box)))


def segment_part(
    model: StageModel,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    within: np.ndarray | None,
    out: np.ndarray,
    probability: np.ndarray | None,
) -> Opinions | None:
    """Segment a part of a scan with the network of a stage, or with the networks of an ensemble.

    Args:
        model: The trained stage.
        image: int16 HU, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        within: Mask in which the components of the result have to lie, shape (D, H, W); None for anywhere.
        out: Boolean array that gets the mask, shape (D, H, W).
        probability: float32 array that gets the probabilities, shape (D, H, W); None if nobody reads them.

    Returns:
        How far the members of an ensemble agree; None without ``probability``, and for a single network.
    """
    device, readout, flips = model.device, model.readout, model.flips
    if model.members:
        return segment_box_together(
            model.members,
            image,
            spacing,
            model.threshold,
            probability,
            device=device,
            readout=readout,
            flips=flips,
            within=within,
            out=out,
        )
    segment_box(
        model.net,
        image,
        spacing,
        model.threshold,
        stage=model.stage,
        device=device,
        readout=readout,
        flips=flips,
        within=within,
        out=out,
        probability=probability,
    )
    return None


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
        coarse = [axis for axis, s, n in zip("zyx", spacing, limits, strict=True) if s > FAMILIAR_SPACING_FACTOR * n]
        if not coarse:
            continue
        unfamiliar.append(model.stage.title)
        if not sentence:
            voxels = " x ".join(f"{s:.2g}" for s in spacing)
            expected = " x ".join("-".join(dict.fromkeys(f"{end:.2g}" for end in ends)) for ends in trained)
            sentence = f"the voxels of {voxels} mm are coarser along {' and '.join(coarse)}"
            sentence += f" than those of the training ({expected} mm)"
    return f"{sentence} in {', '.join(unfamiliar)}" if 0 < len(unfamiliar) < len(models) else sentence
