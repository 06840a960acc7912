"""One run of a training: what it computes with, from its cases to its optimiser."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from data.cases.case import Case
from data.cases.store import digest
from data.common.errors import InputError
from data.samples import BoxDataset, Sample, spacing_range
from data.splits.split import Split
from engine.checkpoint import Checkpoint
from engine.device import Execution
from engine.infer.box import Flip, flips_of
from engine.recipe import OPTIMISERS, Recipe
from engine.stages import Stage
from engine.train.initial import InitialWeights, load_fitting
from engine.train.loader import EpochSampler, NamingDataset, count_negatives, make_loader, share_around_pancreas
from engine.train.recording import RecordedNetwork
from engine.train.synthetic import draw_validation
from models.dual_task_net import DualTaskNet
from models.losses import DualTaskLoss
from models.tissue_contrast import Anchors


@dataclass
class Training:
    """One run while it trains.

    Attributes:
        stage: With the method and the sampling of the recipe.
        split: Names the training and validation cases.
        recipe: All settings.
        execution: How it is computed, and where.
        folder: The run folder.
        loader: Yields the samples of a step as a list, or an error in place of a sample.
        sampler: Orders them; knows the epoch.
        validation: The validation cases; may be empty.
        net: The network.
        forward: Runs the network on the images of a step.
        optimiser: As the recipe names it.
        scaler: Scales the loss if the execution asks for it; it starts anew in a run that goes on.
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
    execution: Execution
    folder: Path
    loader: DataLoader[Sample | InputError]
    sampler: EpochSampler
    validation: Sequence[Case]
    net: DualTaskNet
    forward: RecordedNetwork
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: DualTaskNet | None
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
    def boxes(self) -> BoxDataset:
        """The boxes that the loader reads."""
        return cast("NamingDataset", self.loader.dataset).boxes

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.execution.device

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The flips over which its predictions are averaged."""
        return flips_of(self.recipe.augmentation.flip)

    @property
    def title(self) -> str:
        """The run in a few words, for progress bars and pictures."""
        return f"{self.stage.title}, {self.split.title}"


def prepare_training(
    *,
    stage: Stage,
    split: Split,
    recipe: Recipe,
    train_cases: Sequence[Case],
    negatives: Sequence[Case] = (),
    validation_cases: Sequence[Case],
    synthetic: Sequence[Case] = (),
    execution: Execution,
    folder: Path,
    checkpoint: Checkpoint | None = None,
    initial: InitialWeights | None = None,
    recomputed: int = 0,
) -> Training:
    """Build the network, the optimiser and the loader of a run.

    Args:
        stage: With the method and the sampling of the recipe.
        split: Names the cases.
        recipe: All settings.
        train_cases: Cases with the target, at least one if there are no synthetic patients.
        negatives: Training cases without it, which take part as far as the recipe says.
        validation_cases: May be empty. Synthetic patients among them are rendered now.
        synthetic: Synthetic patients, with the target or without it, of which every epoch sees a box.
        execution: How to compute it, and where.
        folder: The run folder, which exists.
        checkpoint: ``last.pt`` of an interrupted run, from whose state to go on; None starts anew.
        initial: Weights that a new run begins with; None for random ones.
        recomputed: As in ``DualTaskNet``.

    Raises:
        InputError: If the cases have been prepared again since the checkpoint was written, it is of another network, or
            none of the initial weights fits.
    """
    settings = recipe.training
    torch.manual_seed(settings.seed)  # of the initial weights, which are the same in all processes
    device = execution.device
    net = recipe.build_network(device, execution.memory_format)
    net.recomputed = recomputed
    if initial and checkpoint is None:
        load_fitting(net, initial)
    if recipe.start.freeze == "encoder":
        net.freeze_encoder()
    average = copy.deepcopy(net) if settings.ema_decay else None
    drawn = count_negatives(len(train_cases), len(negatives), settings.negatives)
    in_every_epoch = [*train_cases, *synthetic]
    cases = [*in_every_epoch, *(negatives if drawn else ())]
    dataset = BoxDataset(
        cases,
        stage.sampling,
        settings.seed,
        recipe.augmentation.reach,
        share_around_pancreas(settings.negatives),
        stage.method.needs_pancreas,
    )
    sampler = EpochSampler(len(in_every_epoch), settings.seed, len(negatives), drawn, settings.batch_size)
    training = Training(
        stage=stage,
        split=split,
        recipe=recipe,
        execution=execution,
        folder=folder,
        loader=make_loader(dataset, sampler, settings.workers),
        sampler=sampler,
        validation=draw_validation(validation_cases),
        net=net,
        forward=RecordedNetwork(net, execution),
        optimiser=OPTIMISERS[settings.optimiser](
            net.parameters(),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            fused=True if execution.prepares_ahead else None,
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=execution.scales_loss),
        average=average,
        criterion=stage.method.build_loss(),
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
        problem = "its cases have been prepared again since"
        if training.recipe.training.synthetic:
            problem += ", or its synthetic patients are drawn in another way"
        raise InputError(training.folder, problem, remedy)
    try:
        training.net.load_state_dict(checkpoint.net)
        if checkpoint.optimiser is not None:
            # Whether it is fused depends on this device, not on that of the run's first part, and so does where the
            # optimiser counts its steps.
            groups = zip(checkpoint.optimiser["param_groups"], training.optimiser.param_groups, strict=True)
            state = {**checkpoint.optimiser, "param_groups": [{**g, "fused": own["fused"]} for g, own in groups]}
            training.optimiser.load_state_dict(state)
        if training.average is not None:
            training.average.load_state_dict(checkpoint.average or {})  # which is refused if it is missing
        if checkpoint.memory is not None:
            training.criterion.memory = Anchors(**{n: t.to(training.device) for n, t in checkpoint.memory.items()})
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"its parameters are not those of the network of {training.stage.title}"
        raise InputError(training.folder / "last.pt", problem, remedy) from error
    training.epochs_done, training.best_dice = checkpoint.epoch, checkpoint.best_dice
