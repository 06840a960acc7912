"""What does each loss term teach? The gradients of a trained model's terms on the layers that all heads share.

    python benchmarks/term_gradients.py --store STORE --path STUDY/VARIANT/seed_N --data CENTRE [--stage tumor_coarse]

Over training cases, augmented and with views as in the training: the norm of each term's gradient, weighted as at the
training's end, and its cosine with that of dice + bce. A term of a norm far below theirs trains next to nothing; one
of cosine 1 teaches the same again. Of the contrast, also how many anchors a step has and how alike all cells are: where
the cosine of two cells is 1, they are told apart by nothing. Of the distance head, the Dice of its own mask, d < 0.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.augment import Batch, make_batch
from data.cases.store import read_store
from data.common.errors import command
from data.samples import BoxDataset
from data.splits.frozen import frozen_splits
from data.splits.split import choose_splits, select_cases
from engine.device import choose_device
from engine.infer.cascade import StageModel, load_model
from engine.options import add_gpu, add_path, add_store
from engine.stages import STAGES
from engine.train.loop import derive_seed
from models.contrast import draw_anchors
from models.dual_task_net import DualTaskOutput
from models.losses import DualTaskLoss, LossWeights, dice_loss
from models.views import random_views

HEADS = ("seg.", "sdf.", "embedding.", "slice.")
SEGMENTATION = ("dice", "bce")


def measure(model: StageModel, dataset: BoxDataset, index: int) -> dict[str, float]:
    """One training case, by name of the figure."""
    method = model.stage.method
    generator = torch.Generator().manual_seed(derive_seed(2022, index))
    batch = make_batch([dataset[1, index]], model.device, generator)
    torch.manual_seed(index)  # of the dropout
    output = model.net(random_views(batch.image, method.views, generator))
    found = gradients(model, output, batch, index) | masks(output, batch.mask)
    return found | (anchors(output, batch.mask, model.stage.min_cells, generator) if method.weights.contrast else {})


def gradients(model: StageModel, output: DualTaskOutput, batch: Batch, seed: int) -> dict[str, float]:
    """ "norm TERM" and "cosine TERM" of every active term; both 0 without a gradient."""
    method = model.stage.method
    phi = method.distance_target(batch.mask, batch.spacing)
    shared = [p for name, p in model.net.named_parameters() if not name.startswith(HEADS)]

    def gradient(*terms: str) -> Tensor:
        only = {name: weight if name in terms else 0.0 for name, weight in vars(method.weights).items()}
        criterion = DualTaskLoss(LossWeights(**only), min_cells=model.stage.min_cells, steepness=method.steepness)
        loss, _ = criterion(output, batch.mask, phi, batch.spacing, torch.Generator().manual_seed(seed))
        if not loss.requires_grad:  # T cut off is a constant
            return torch.zeros(sum(p.numel() for p in shared), device=model.device)
        parts = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    plain, found = gradient(*SEGMENTATION), {}
    for term in method.weights.active:
        of_term = gradient(term)
        found[f"norm {term}"] = float(of_term.norm())
        found[f"cosine {term}"] = float(F.cosine_similarity(of_term, plain, dim=0))
    return found


def masks(output: DualTaskOutput, mask: Tensor) -> dict[str, float]:
    """ "dice seg" and, with a distance head, "dice sdf", of the first view."""
    inside = {"seg": output.seg > 0} | ({} if output.sdf is None else {"sdf": output.sdf < 0})
    return {f"dice {head}": 1 - float(dice_loss(found[: len(mask)].float(), mask)) for head, found in inside.items()}


def anchors(output: DualTaskOutput, mask: Tensor, min_cells: int, generator: torch.Generator) -> dict[str, float]:
    """Anchors "in" and "out" of the target, and how "alike" the first view's cells are: their mean cosine."""
    drawn = draw_anchors(output.embedding, mask.repeat(len(output.seg) // len(mask), 1, 1, 1, 1), min_cells, generator)
    cells = F.normalize(output.embedding[0].flatten(1).detach(), dim=0)
    return {"in": len(drawn.positive), "out": len(drawn.negative), "alike": float((cells.T @ cells).mean())}


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="CENTRE", required=True, help="the centre that was held out")
    parser.add_argument("--stage", choices=tuple(STAGES), default="tumor_coarse")
    parser.add_argument("--cases", type=int, default=32, help="training cases that are looked at (default: 32)")
    add_store(parser)
    add_path(parser)
    add_gpu(parser)
    args = parser.parse_args()
    store = read_store(args.store)
    model = load_model(args.path, args.stage, args.data, choose_device(args.gpu))
    model.net.train()
    [split] = choose_splits(frozen_splits(args.store, store, save=False), args.data)
    cases = select_cases(store, split.train)
    chosen = cases[:: max(1, len(cases) // args.cases)]
    dataset = BoxDataset(chosen, model.stage.sampling, 2022)
    rows = [measure(model, dataset, index) for index in range(len(chosen))]
    mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    print(f"{model.run}: {len(rows)} training cases\n  term                 norm   cosine with dice + bce")
    for term in model.stage.method.weights.active:
        print(f"  {term:<16} {mean[f'norm {term}']:>8.3f}   {mean[f'cosine {term}']:>6.2f}")
    distance = f", distance head {mean['dice sdf']:.3f}" if "dice sdf" in mean else ""
    print(f"  Dice of the first view: segmentation head {mean['dice seg']:.3f}{distance}")
    if "alike" in mean:
        print(f"  anchors a step: {mean['in']:.1f} in, {mean['out']:.1f} out; cosine of two cells {mean['alike']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
