"""The training loop of all four stages."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from data.common.progress import progress_bar
from engine.checkpoint import BEST, Checkpoint, load_checkpoint, save_checkpoint
from engine.device import naming_memory_errors
from engine.infer.models import StageModel
from engine.processes import mean_over_processes, wait_for_all
from engine.train.gates import describe_gates, shares_of
from engine.train.loader import derive_seed
from engine.train.operating_point import choose_score_thresholds
from engine.train.profile import profiling
from engine.train.run_log import RunLog
from engine.train.step import LESS_MEMORY, LossSums, step_inputs, train_step
from engine.train.training import Training
from engine.train.validate import choose_thresholds, validation_dice
from models.processes import process_number

BEST_SO_FAR = "best_so_far.pt"  # the best weights of a run that is not finished


def train(training: Training, profile: int = 0, tracker: str = "") -> None:
    """Train to the last epoch.

    After every epoch ``last.pt`` holds all that is needed to go on as if the training had never been interrupted.

    Args:
        training: The run.
        profile: Number of steps to record with torch's profiler.
        tracker: As in ``RunLog``.

    Raises:
        InputError: If a loss is not finite or the memory does not suffice; it names the case.
    """
    settings = training.recipe.training
    writes = process_number() == 0
    done = training.epochs_done * len(training.loader)
    with (
        RunLog(training.folder, training.epochs_done, tracker) if writes else contextlib.nullcontext() as log,
        progress_bar(total=training.steps, done=done, unit="step", title=training.title) as bar,
        profiling(training.folder, profile, training.device) as after_step,
    ):

        def step_done() -> None:
            bar.update()
            after_step()

        for epoch in range(training.epochs_done + 1, settings.epochs + 1):
            start = time.monotonic()
            row: dict[str, float | None] = {"epoch": epoch, **train_one_epoch(training, epoch, step_done)}
            validates = epoch == settings.epochs or epoch % settings.validate_every == 0
            dice = validate(training) if validates else {}
            if dice:
                bar.set_postfix(loss=f"{row['loss']:.3f}", dice=f"{max(dice.values()):.3f}", refresh=False)
            # Without validation cases epochs cannot be ranked, so the last one is kept.
            best = choose_best(training, dice) if validates else None
            if log:
                log.add_epoch({**row, **dice, "seconds": round(time.monotonic() - start, 2)})
            if log and validates:  # before the epoch counts as done, so that a killed run that goes on draws them again
                log.draw_curves(training.title)
            save_epoch(training, epoch, best)
    for line in describe_gates(log.history) if log else ():
        print(f"{training.title}: {line}")


def validate(training: Training) -> dict[str, float]:
    """Return the validation Dice of the weights and of their average, by the column of ``losses.csv``.

    It is empty without validation cases.
    """
    return {
        column: validation_dice(
            net,
            training.stage,
            training.validation,
            training.device,
            flips=training.flips,
            negatives=training.recipe.training.negatives,
        )
        for column, net in candidates(training).items()
        if training.validation
    }


def candidates(training: Training) -> dict[str, nn.Module]:
    """Return the networks that could be kept, by the column of ``losses.csv`` that has their validation Dice."""
    average = {} if training.average is None else {"validation_dice_average": training.average}
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


def train_one_epoch(training: Training, epoch: int, step_done: Callable[[], None]) -> dict[str, float | None]:
    """Make one pass over the training cases.

    Args:
        training: The run.
        epoch: Its number, from 1.
        step_done: Is called after every step.

    Returns:
        The learning rate of the last step and the mean over the steps of the loss, each unweighted term and the norm of
        the gradient; and of the steps in which they were measured, the ``shares_of`` the terms in it.

    Raises:
        InputError: If a loss or gradient is not finite or the memory does not suffice; it names the case.
    """
    training.net.train()
    training.sampler.epoch = epoch
    torch.manual_seed(derive_seed(training.recipe.training.seed, epoch, process_number()))  # of the dropout
    sums = LossSums(training.execution.read_every)
    for step, step_input in enumerate(step_inputs(training, epoch)):
        with naming_memory_errors(", ".join(step_input.keys), training.device, LESS_MEMORY):
            terms = train_step(training, step_input, (epoch - 1) * len(training.loader) + step)
            sums.add(step_input.keys, terms)
        step_done()
    sums.read()
    return {"lr": training.optimiser.param_groups[0]["lr"], **shares_of(mean_over_processes(sums.means()))}


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
        confirms=training.stage.confirms(training.recipe.training.negatives),
        best_dice=training.best_dice,
    )
    best_so_far, finished = training.folder / BEST_SO_FAR, epoch == training.recipe.training.epochs
    writes = process_number() == 0
    if best is not None and writes:
        save_checkpoint(best_so_far, replace(checkpoint, net=weights_of(best)))
    if finished:
        wait_for_all()
        kept = load_checkpoint(best_so_far, training.stage.name)
        training.net.load_state_dict(kept.net)
        thresholds = choose_thresholds(
            training.net,
            training.stage,
            training.validation,
            training.device,
            flips=training.flips,
            negatives=training.recipe.training.negatives,
        )
        thresholds |= choose_score_thresholds(model_of(training, kept), training.validation, thresholds)
        if writes:
            save_checkpoint(training.folder / BEST, replace(kept, thresholds=thresholds))
    if writes:
        average = None if training.average is None else weights_of(training.average)
        memory = training.criterion.memory
        last = replace(
            checkpoint,
            optimiser=training.optimiser.state_dict(),
            average=average,
            memory=None if memory is None else memory._asdict(),
        )
        save_checkpoint(training.folder / "last.pt", last)
    if writes and finished:
        best_so_far.unlink()
    training.epochs_done = epoch


def model_of(training: Training, checkpoint: Checkpoint) -> StageModel:
    """Return the network of a training, which has the weights of a checkpoint, as inference uses it."""
    return StageModel(
        stage=training.stage,
        net=training.net.eval(),
        readout="segmentation",
        threshold=0.5,
        device=training.device,
        run=training.folder,
        epoch=checkpoint.epoch,
        split_hash=checkpoint.split_hash,
        preparation=checkpoint.recipe.preparation,
        confirms=checkpoint.confirms,
        trained_flips=training.flips,
    )


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a network, which further steps do not change."""
    return {name: value.clone() for name, value in net.state_dict().items()}
