"""What does each loss term teach the layers that all heads share?

    python experiments/term_gradients.py --store STORE --path STUDY/VARIANT/seed_N --data CENTRE [--stage STAGE]

Takes a trained model and training cases, augmented and with views as during training, and prints means over the cases:

- for every term, the norm of its gradient on the shared layers, weighted as at the end of the training, and its cosine
  similarity with the gradient of dice + bce. A term whose norm is far below theirs teaches next to nothing; one with a
  cosine of 1 teaches the same a second time;
- the Dice of the masks of both heads, s > 0 and d < 0, on the first view;
- for the contrast, the number of anchors per step and the mean cosine similarity of two cells. Where that is 1, the
  contrast cannot tell the cells apart.
"""

import argparse
import sys
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.augment import Augmentation, make_batch
from data.common.errors import command
from data.samples import BoxDataset
from data.splits.split import select_cases
from engine.infer.models import StageModel
from engine.stages import STAGES
from engine.train.loader import derive_seed
from engine.train.step import StepInput, make_views
from experiments.common import add_run_options, open_run
from models.contrast import draw_anchors
from models.dual_task_net import DualTaskNet, DualTaskOutput
from models.gradients import compare_gradients
from models.losses import dice_loss, sum_of

SEGMENTATION = ("dice", "bce")
SEED = 2022


def measure(model: StageModel, dataset: BoxDataset, index: int) -> dict[str, float]:
    """Measure one training case.

    Returns:
        By name: "norm TERM" and "cosine TERM" for every active term; "dice seg" and, with a distance head, "dice sdf";
        with the contrast, the numbers of anchors "positive" and "negative" and the mean "cell cosine".
    """
    method, min_cells = model.stage.method, model.stage.method.min_anchor_cells
    generator = torch.Generator().manual_seed(derive_seed(SEED, index))
    batch = make_batch(
        [dataset[1, index]],
        model.device,
        hu_window=model.stage.sampling.hu_window,
        augmentation=Augmentation(),
        generators=[generator],
    )
    torch.manual_seed(index)  # the dropout's
    step = make_views(batch, method, [generator])
    output = model.net(step.images)
    measured = gradients_of_terms(model, output, step, index)

    masks = {"seg": output.seg > 0} | ({} if output.sdf is None else {"sdf": output.sdf < 0})
    for head, mask in masks.items():
        measured[f"dice {head}"] = 1 - float(dice_loss(mask[: len(batch.mask)].float(), batch.mask))
    if method.weights.contrast:
        views = len(output.seg) // len(batch.mask)
        of_views = batch.mask.repeat(views, 1, 1, 1, 1), batch.spacing.repeat(views, 1)
        drawn = draw_anchors(output.embedding, *of_views, min_cells, [generator] * views, method.ring_mm)
        cells = F.normalize(output.embedding[0].flatten(1).detach(), dim=0)
        measured["positive"], measured["negative"] = drawn.drawn.sum(dim=1).tolist()
        measured["cell cosine"] = float((cells.T @ cells).mean())
    return measured


def gradients_of_terms(model: StageModel, output: DualTaskOutput, step: StepInput, seed: int) -> dict[str, float]:
    """Measure the gradient of every active term; norm and cosine are 0 for a term without gradient."""
    generators = [torch.Generator().manual_seed(seed)]
    weighted, _ = model.stage.method.build_loss().weighted_terms(
        output, step.mask, step.phi, step.spacing, generators, cells=step.cells
    )
    segmentation = sum_of({name: term for name, term in weighted.items() if name in SEGMENTATION}, model.device)
    compared = compare_gradients(weighted, segmentation, cast("DualTaskNet", model.net).shared_parameters())
    return {name.replace("_", " ", 1): float(value) for name, value in compared.items()}


@command
def main() -> int:
    """Measure evenly spaced training cases and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stage", choices=tuple(STAGES), default="tumor_coarse", help="stage of the run (default: tumor_coarse)"
    )
    parser.add_argument(
        "--cases", type=int, metavar="INT", default=32, help="number of training cases to measure (default: 32)"
    )
    add_run_options(parser)
    args = parser.parse_args()
    model, centres, split = open_run(args.stage, args.data, store=args.store, checkpoints=args.path, gpu=args.gpu)
    model.net.train()
    target = model.stage.sampling.target
    cases = [case for case in select_cases(centres, split.train) if case.target_box(target)]
    sampling, with_pancreas = model.stage.sampling, model.stage.method.needs_pancreas
    dataset = BoxDataset(cases[:: max(1, len(cases) // args.cases)], sampling, SEED, with_pancreas=with_pancreas)
    rows = [measure(model, dataset, index) for index in range(len(dataset))]
    mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    print(f"{model.run}: {len(rows)} training cases\n  term                 norm   cosine with dice + bce")
    for term in model.stage.method.weights.active:
        print(f"  {term:<16} {mean[f'norm {term}']:>8.3f}   {mean[f'cosine {term}']:>6.2f}")
    distance_head = f", distance head {mean['dice sdf']:.3f}" if "dice sdf" in mean else ""
    print(f"  Dice of the first view: segmentation head {mean['dice seg']:.3f}{distance_head}")
    if "cell cosine" in mean:
        print(
            f"  anchors a step: {mean['positive']:.1f} in, {mean['negative']:.1f} out; "
            f"cosine of two cells {mean['cell cosine']:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
