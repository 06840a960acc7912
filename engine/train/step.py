"""One step of a training: augmentation, views, network forward and backward, update.

Nothing here reads a number from the device that computes, because a GPU would have to be waited for, and would then
wait for the next step itself. What decides on shapes is drawn on the CPU.
"""

import functools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from data.augment import Batch, batch_shape, make_batch
from data.common.errors import InputError
from data.samples import Sample
from data.splits.split import centre_of
from engine.device import naming_memory_errors
from engine.method import Method
from engine.processes import average_gradients, largest_over_processes, own_share
from engine.train.gates import measure_gradients, measures
from engine.train.loader import derive_seed, read_batches
from engine.train.training import Training
from models.dual_task_net import DualTaskOutput
from models.losses import sum_of
from models.tissue_contrast import TissueCells, find_tissues
from models.views import random_views

LESS_MEMORY = "start a new run with a smaller --batch-size or --width"


class StepInput(NamedTuple):
    """What a step computes with.

    Attributes:
        images: All views of the batch, view after view, (V B, 1, D, H, W).
        mask: (B, 1, D, H, W), 0 or 1.
        phi: Target of the distance head, (B, 1, D, H, W); None for a method without that head.
        spacing: (B, 3), (z, y, x) in mm, on the CPU.
        keys: The cases.
        generators: Of each sample, for what the loss draws.
        cells: For the contrast of tissues; None for a method without it.
    """

    images: Tensor
    mask: Tensor
    phi: Tensor | None
    spacing: Tensor
    keys: tuple[str, ...]
    generators: Sequence[Generator]
    cells: TissueCells | None = None


def step_inputs(training: Training, epoch: int) -> Iterator[StepInput]:
    """Yield what the steps of an epoch compute with.

    On a GPU, the next step is prepared on a stream of its own while the network is busy with this one.

    Raises:
        InputError: If a case cannot be read, or does not fit into the memory.
    """
    inputs = _prepared_steps(training, epoch)
    if not training.execution.prepares_ahead:
        yield from inputs
        return
    beside, main = _stream_beside(training.device), torch.cuda.current_stream(training.device)
    while True:
        with torch.cuda.stream(beside):
            upcoming = next(inputs, None)
        if upcoming is None:
            return
        main.wait_stream(beside)
        for tensor in (upcoming.images, upcoming.mask, upcoming.phi, upcoming.cells and upcoming.cells.tissues):
            if tensor is not None:
                tensor.record_stream(main)
        yield upcoming


@functools.cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which steps are prepared; the memory that is freed on a stream serves that stream only."""
    return torch.cuda.Stream(device)


def _prepared_steps(training: Training, epoch: int) -> Iterator[StepInput]:
    batch_size, seed = training.recipe.training.batch_size, training.recipe.training.seed
    for step, samples in enumerate(read_batches(training.loader)):
        seeds = own_share([derive_seed(seed, epoch, step + 1, place) for place in range(batch_size)])
        names = ", ".join(sample.key for sample in samples)
        with naming_memory_errors(names, training.device, LESS_MEMORY):
            step_input = prepare_step(training, samples, [Generator().manual_seed(s) for s in seeds])
        yield step_input


def prepare_step(training: Training, samples: Sequence[Sample], generators: Sequence[Generator]) -> StepInput:
    """Augment samples, compute the signed distance of their masks, and make their views.

    Args:
        training: The run.
        samples: Of one step.
        generators: One for each sample, on the CPU; what is drawn for a sample does not depend on the others.
    """
    method = training.stage.method
    if method.copies > 1:  # the second augmentation of a box depends on its own draws only, as the first one does
        generators = [*generators, *(Generator().manual_seed(derive_seed(g.initial_seed(), 1)) for g in generators)]
        samples = [*samples, *samples]
    batch = make_batch(
        samples,
        training.device,
        hu_window=training.stage.sampling.hu_window,
        augmentation=training.recipe.augmentation,
        generators=generators,
        at_least=largest_over_processes(batch_shape(samples)),
    )
    step = make_views(batch, method, generators)
    return step._replace(images=step.images.contiguous(memory_format=training.execution.memory_format))


def make_views(batch: Batch, method: Method, generators: Sequence[Generator]) -> StepInput:
    """Compute what a method needs of a batch: views of its images, signed distance, and tissues."""
    phi = method.distance_target(batch.mask, batch.spacing)
    cells = None
    if method.weights.tissue_contrast and batch.pancreas is not None:
        tissues = find_tissues(batch.image, batch.mask, batch.pancreas, batch.spacing, method.ring_mm)
        cells = TissueCells(tissues, torch.tensor([number_of(centre_of(key)) for key in batch.keys]))
    masks = () if batch.pancreas is None else (batch.mask, batch.pancreas)
    images = random_views(batch.image, batch.spacing, method.views, generators, masks)
    return StepInput(images, batch.mask, phi, batch.spacing, batch.keys, generators, cells)


def number_of(centre: str) -> int:
    """Return a number that stands for a centre in all runs."""
    return zlib.crc32(centre.encode())


@torch.no_grad()
def guide_of(training: Training, step: StepInput) -> DualTaskOutput | None:
    """Return what the moving average of the weights makes of the plain images, if the method needs a guide.

    It is None without an average; the network then guides itself.
    """
    if training.average is None or not training.stage.method.is_guided:
        return None
    return training.average.eval()(step.images[: len(step.mask)])


def train_step(training: Training, step: StepInput, done: int) -> dict[str, Tensor]:
    """Run the network forward and backward, and update it.

    Args:
        training: The run.
        step: What to compute with.
        done: Number of steps that the run has made before.

    Returns:
        The loss, each unweighted term and the norm of the gradient before clipping: scalars on the device. In some
        steps, what ``measure_gradients`` finds of the terms besides.
    """
    settings, progress = training.recipe.training, done / training.steps
    rising = max(1.0, settings.warm_up * training.steps)
    for group in training.optimiser.param_groups:  # linear warm-up, polynomial decay with power 0.9
        group["lr"] = settings.lr * min(1.0, (done + 1) / rising) * (1 - progress) ** 0.9
    is_measured = measures(training, done)
    # What is measured takes several backward passes, of which a record plays only one.
    forward: Callable[[Tensor], DualTaskOutput] = training.net if is_measured else training.forward
    with training.execution.autocast():
        guide = guide_of(training, step)
        output = forward(step.images)
    weighted, terms = training.criterion.weighted_terms(
        output, step.mask, step.phi, step.spacing, step.generators, progress, step.cells, guide
    )
    loss = sum_of(weighted, training.device)
    measured = measure_gradients(training, weighted) if is_measured else {}
    training.optimiser.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    # A record gives gradients of 0 where nothing reads a head; the optimiser would still decay its weights.
    for head in training.stage.method.unread_heads(weighted):
        for parameter in getattr(training.net, head).parameters():
            parameter.grad = None
    average_gradients(training.net)
    training.scaler.unscale_(training.optimiser)
    norm = nn.utils.clip_grad_norm_(training.net.parameters(), settings.clip_norm)
    training.scaler.step(training.optimiser)
    training.scaler.update()
    # A fused optimiser does not tell those who keep what they have computed from the weights (``StandardisedConv3d``).
    torch.autograd.graph.increment_version([*training.net.parameters()])
    if training.average is not None:
        # In the first steps the average forgets faster, so that it does not keep the random weights of the start.
        share = 1 - min(settings.ema_decay, (1 + done) / (10 + done))
        with torch.no_grad():
            for average, weight in zip(training.average.parameters(), training.net.parameters(), strict=True):
                average.lerp_(weight, share)
    if training.execution.scales_loss:  # a step whose scaled gradient overflows is left out, and the scale is lowered
        norm = norm.nan_to_num(posinf=0.0)
    return {"loss": loss.detach(), **terms, "gradient_norm": norm, **measured}


class LossSums:
    """The sums of what the steps of an epoch return; they are read, and checked to be finite, several steps at a time.

    Args:
        read_every: Steps that are read at a time.
    """

    def __init__(self, read_every: int) -> None:
        self.read_every = read_every
        self.sums: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._unread: list[tuple[tuple[str, ...], dict[str, Tensor]]] = []

    def add(self, keys: tuple[str, ...], terms: dict[str, Tensor]) -> None:
        """Add the terms of a step on these cases.

        Raises:
            InputError: If a term of one of the steps read now is not finite; it names the cases.
        """
        self._unread.append((keys, terms))
        if len(self._unread) >= self.read_every:
            self.read()

    def read(self) -> None:
        """Read the steps that have not been read yet.

        Raises:
            InputError: As for ``add``.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        found = iter(torch.stack([term.float() for _, terms in unread for term in terms.values()]).tolist())
        for keys, terms in unread:
            values = {name: next(found) for name in terms}
            if not all(map(math.isfinite, values.values())):
                shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
                problem = f"the loss is not finite ({shown})"
                raise InputError(", ".join(keys), problem, "look at the case, or use a lower --lr")
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts.update(values.keys())

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the steps that have been read and have it."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}
