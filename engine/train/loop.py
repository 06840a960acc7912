"""The training loop of all four stages."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from data.augment import make_batch
from data.cases.case import Case
from data.cases.store import digest
from data.common.errors import InputError
from data.common.progress import Progress, progress_bar
from data.samples import BoxDataset, Sample, spacing_range
from data.splits.split import Split
from engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from engine.device import autocast, naming_memory_errors
from engine.recipe import OPTIMISERS, Recipe
from engine.stages import Stage
from engine.train.loader import (
    EpochSampler,
    count_negatives,
    derive_seed,
    make_loader,
    read_batches,
    share_around_pancreas,
)
from engine.train.run_log import RunLog
from engine.train.validate import choose_thresholds, validation_dice
from models.losses import DualTaskLoss
from models.views import random_views

BEST_SO_FAR = "best_so_far.pt"  # the best weights of a run that is not finished


@dataclass
class Training:
    """One run while it trains.

    Attributes:
        stage: With the method and the sampling of the recipe.
        split: Names the training and validation cases.
        recipe: All settings.
        device: Where the network is.
        folder: The run folder.
        boxes: Of the training cases.
        loader: Yields the samples of a step as a list, or an error in place of a sample.
        sampler: Orders them; knows the epoch.
        validation: The validation cases; may be empty.
        net: The network.
        optimiser: As the recipe names it.
        average: Exponential moving average of the weights; None if the recipe has none.
        criterion: The loss.
        data_hash: Hash of the training and validation cases as they were prepared when the run began.
        spacing_range: Finest and coarsest voxel size (z, y, x) in mm of the training cases.
        epochs_done: Completed epochs.
        best_dice: Best validation Dice so far; None before the first validation, or without validation cases.
    """

    stage: Stage
    split: Split
    recipe: Recipe
    device: torch.device
    folder: Path
    boxes: BoxDataset
    loader: DataLoader[Sample | InputError]
    sampler: EpochSampler
    validation: Sequence[Case]
    net: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel | None
    criterion: DualTaskLoss
    data_hash: str
    spacing_range: list[list[float]]
    epochs_done: int = 0
    best_dice: float | None = None

    @property
    def steps(self) -> int:
        """Number of optimisation steps of the whole run."""
        return self.recipe.training.epochs * len(self.loader)

    @property
    def title(self) -> str:
        """The run in a few words, for progress bars and pictures."""
        return f"{self.stage.title}, {self.split.name} held out"


def prepare_training(
    *,
    stage: Stage,
    split: Split,
    recipe: Recipe,
    train_cases: Sequence[Case],
    negatives: Sequence[Case] = (),
    validation_cases: Sequence[Case],
    device: torch.device,
    folder: Path,
    checkpoint: Checkpoint | None = None,
) -> Training:
    """Build the network, the optimiser and the loader of a run.

    Args:
        stage: With the method and the sampling of the recipe.
        split: Names the cases.
        recipe: All settings.
        train_cases: Cases with the target, at least one.
        negatives: Training cases without it, which take part as far as the recipe says.
        validation_cases: May be empty.
        device: Where to compute.
        folder: The run folder, which exists.
        checkpoint: ``last.pt`` of an interrupted run, from whose state to go on; None starts anew.

    Raises:
        InputError: If the cases have been prepared again since the checkpoint was written, or it is of another network.
    """
    settings = recipe.training
    torch.manual_seed(settings.seed)  # of the initial weights
    net = recipe.build_network(device)
    drawn = count_negatives(len(train_cases), len(negatives), settings.negatives)
    cases = [*train_cases, *(negatives if drawn else ())]
    dataset = BoxDataset(
        cases,
        stage.sampling,
        settings.seed,
        recipe.augmentation.reach,
        share_around_pancreas(len(train_cases), drawn),
    )
    sampler = EpochSampler(len(train_cases), settings.seed, len(negatives), drawn)
    training = Training(
        stage=stage,
        split=split,
        recipe=recipe,
        device=device,
        folder=folder,
        boxes=dataset,
        loader=make_loader(dataset, sampler, settings.batch_size, settings.workers),
        sampler=sampler,
        validation=validation_cases,
        net=net,
        optimiser=OPTIMISERS[settings.optimiser](net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay),
        average=average_weights(net, settings.ema_decay),
        criterion=DualTaskLoss(
            stage.method.weights,
            min_cells=stage.method.min_anchor_cells,
            ring_mm=stage.method.ring_mm,
            ramp=stage.method.ramp,
            steepness=stage.method.steepness,
        ),
        data_hash=digest([*cases, *validation_cases]),
        spacing_range=spacing_range(cases),
    )
    if checkpoint is not None:
        restore(training, checkpoint)
    return training


def restore(training: Training, checkpoint: Checkpoint) -> None:
    """Bring a training to the state of a checkpoint.

    Raises:
        InputError: As for ``prepare_training``.
    """
    remedy = "start a new run without --resume"
    if checkpoint.data_hash != training.data_hash:
        raise InputError(training.folder, "its cases have been prepared again since", remedy)
    try:
        training.net.load_state_dict(checkpoint.net)
        if checkpoint.optimiser is not None:
            training.optimiser.load_state_dict(checkpoint.optimiser)
        if training.average is not None:
            training.average.load_state_dict(checkpoint.average or {})  # which is refused if it is missing
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"its parameters are not those of the network of {training.stage.title}"
        raise InputError(training.folder / "last.pt", problem, remedy) from error
    training.epochs_done, training.best_dice = checkpoint.epoch, checkpoint.best_dice


def average_weights(net: nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of the weights of ``net``, or None for a decay of 0.

    In the first steps the average forgets faster, so that it does not keep the random weights of the start.
    """
    if decay == 0:
        return None

    def step(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        return average.lerp(weight, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return AveragedModel(net, avg_fn=step)


def train(training: Training) -> None:
    """Train to the last epoch.

    After every epoch ``last.pt`` holds all that is needed to go on as if the training had never been interrupted.

    Raises:
        InputError: If a loss is not finite or the memory does not suffice; it names the case.
    """
    settings = training.recipe.training
    log = RunLog(training.folder, training.epochs_done)
    done = training.epochs_done * len(training.loader)
    with progress_bar(total=training.steps, done=done, unit="step", title=training.title) as bar:
        for epoch in range(training.epochs_done + 1, settings.epochs + 1):
            start = time.monotonic()
            row: dict[str, float | None] = {"epoch": epoch, **train_one_epoch(training, epoch, bar)}
            validates = epoch == settings.epochs or epoch % settings.validate_every == 0
            dice = validate(training) if validates else {}
            if dice:
                bar.set_postfix(loss=f"{row['loss']:.3f}", dice=f"{max(dice.values()):.3f}", refresh=False)
            log.add_epoch({**row, **dice, "seconds": round(time.monotonic() - start, 2)})
            best = None
            if validates:  # without validation cases epochs cannot be ranked, so the last one is kept
                best = choose_best(training, dice)
                # Before the epoch counts as done, so that a killed run that goes on draws them again.
                log.draw_curves(training.title)
            save_epoch(training, epoch, best)
    log.close()
    if log.undrawn:
        print(f"note: {log.undrawn}; the losses are in {log.table}")


def validate(training: Training) -> dict[str, float]:
    """Return the validation Dice of the weights and of their average, by the column of ``losses.csv``.

    It is empty without validation cases.
    """
    return {
        column: validation_dice(
            net, training.stage, training.validation, training.device, training.recipe.training.negatives
        )
        for column, net in candidates(training).items()
        if training.validation
    }


def candidates(training: Training) -> dict[str, nn.Module]:
    """Return the networks that could be kept, by the column of ``losses.csv`` that has their validation Dice."""
    average = {} if training.average is None else {"validation_dice_average": training.average.module}
    return {"validation_dice": training.net, **average}


def choose_best(training: Training, dice: Mapping[str, float]) -> nn.Module | None:
    """Return the network that is better than all before it, if there is one; its Dice becomes the best so far."""
    networks = candidates(training)
    if not dice:
        return list(networks.values())[-1]
    column = max(dice, key=lambda column: dice[column])
    if training.best_dice is not None and dice[column] <= training.best_dice:
        return None
    training.best_dice = dice[column]
    return networks[column]


def train_one_epoch(training: Training, epoch: int, bar: Progress) -> dict[str, float]:
    """Make one pass over the training cases.

    Returns:
        The learning rate of the last step and the mean over the steps of the loss, each unweighted term and the norm of
        the gradient.

    Raises:
        InputError: If a loss or gradient is not finite or the memory does not suffice; it names the case.
    """
    seed = training.recipe.training.seed
    training.net.train()
    training.sampler.epoch = epoch
    torch.manual_seed(derive_seed(seed, epoch))  # of the dropout
    sums: dict[str, float] = {}
    for step, samples in enumerate(read_batches(training.loader)):
        done = (epoch - 1) * len(training.loader) + step
        progress = done / training.steps
        rising = training.recipe.training.warm_up * training.steps
        for group in training.optimiser.param_groups:  # linear warm-up, polynomial decay with power 0.9, per step
            group["lr"] = training.recipe.training.lr * min(1.0, (done + 1) / max(1.0, rising)) * (1 - progress) ** 0.9
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch, step + 1))
        names = ", ".join(sample.key for sample in samples)
        with naming_memory_errors(names, training.device, "start a new run with a smaller --batch-size or --width"):
            terms = train_step(training, samples, generator, progress)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        bar.update()
    means = {name: total / len(training.loader) for name, total in sums.items()}
    return {"lr": training.optimiser.param_groups[0]["lr"], **means}


def train_step(
    training: Training, samples: Sequence[Sample], generator: torch.Generator, progress: float
) -> dict[str, Tensor]:
    """Augment the samples, make their views, run the network forward and backward, and update it.

    Args:
        training: The run.
        samples: Of one batch.
        generator: Draws augmentation, views and anchors.
        progress: Share of the training that is done, in [0, 1].

    Returns:
        The loss, each unweighted term and the norm of the gradient before clipping.

    Raises:
        InputError: If the loss or the gradient is not finite; it names the cases.
    """
    method, device = training.stage.method, training.device
    batch = make_batch(
        samples,
        device,
        hu_window=training.stage.sampling.hu_window,
        augmentation=training.recipe.augmentation,
        generator=generator,
    )
    phi = method.distance_target(batch.mask, batch.spacing)
    images = random_views(batch.image, batch.spacing, method.views, generator)
    with autocast(device):
        output = training.net(images.contiguous(memory_format=torch.channels_last_3d))
    loss, terms = training.criterion(output, batch.mask, phi, batch.spacing, generator, progress)
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(training.net.parameters(), training.recipe.training.clip_norm)
    terms = {"loss": loss.detach(), **terms, "gradient_norm": norm}
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        values = ", ".join(f"{name} {float(term):.3g}" for name, term in terms.items())
        raise InputError(
            ", ".join(batch.keys), f"the loss is not finite ({values})", "look at the case, or use a lower --lr"
        )
    training.optimiser.step()
    if training.average is not None:
        training.average.update_parameters(training.net)
    return terms


def save_epoch(training: Training, epoch: int, best: nn.Module | None) -> None:
    """Save the state after an epoch: ``best_so_far.pt`` if a network is the best so far, then ``last.pt``.

    After the last epoch the best weights get their thresholds and become ``best.pt``, the mark of a finished run. The
    network is then left holding these weights.
    """
    checkpoint = Checkpoint(
        stage=training.stage.name,
        split=training.split.name,
        split_hash=training.split.hash,
        data_hash=training.data_hash,
        recipe=training.recipe,
        spacing_range=training.spacing_range,
        epoch=epoch,
        net=weights_of(training.net),
        best_dice=training.best_dice,
    )
    best_so_far, finished = training.folder / BEST_SO_FAR, epoch == training.recipe.training.epochs
    if best is not None:
        save_checkpoint(best_so_far, replace(checkpoint, net=weights_of(best)))
    if finished:
        kept = load_checkpoint(best_so_far, training.stage.name)
        training.net.load_state_dict(kept.net)
        thresholds = choose_thresholds(
            training.net,
            training.stage,
            training.validation,
            training.device,
            training.recipe.training.negatives,
        )
        save_checkpoint(training.folder / "best.pt", replace(kept, thresholds=thresholds))
    average = None if training.average is None else training.average.state_dict()
    last = replace(checkpoint, optimiser=training.optimiser.state_dict(), average=average)
    save_checkpoint(training.folder / "last.pt", last)
    if finished:
        best_so_far.unlink()
    training.epochs_done = epoch


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a network, which further steps do not change."""
    return {name: value.clone() for name, value in net.state_dict().items()}
