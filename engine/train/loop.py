"""One training loop for the four stages."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.augment import make_batch
from data.cases.store import Case, digest
from data.common.errors import InputError
from data.samples import BoxDataset, Sample, spacing_range
from data.splits.leave_one_out import Split
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.device import autocast, avoid_slow_convolutions, naming_memory_errors
from engine.stages import Stage
from engine.train.run_log import RunLog
from engine.train.validate import choose_thresholds, validation_dice
from models.dual_task_net import DualTaskNet
from models.losses import DualTaskLoss
from models.views import random_views


@dataclass(frozen=True)
class TrainSettings:
    """What a user may change; the published values are the defaults. ``help`` becomes the command line's."""

    epochs: int = field(default=0, metadata={"help": "passes over the training cases; 0: as the stage's table says"})
    batch_size: int = field(default=1, metadata={"help": "boxes a step"})
    seed: int = field(default=2022, metadata={"help": "of every random draw"})
    lr: float = field(default=1e-4, metadata={"help": "first learning rate of Adam; falls to 0 with power 0.9"})
    weight_decay: float = field(default=5e-4, metadata={"help": "of Adam"})
    width: int = field(default=32, metadata={"help": "channels at full resolution, a multiple of 8; 32 is the paper's"})
    workers: int = field(default=2, metadata={"help": "processes that read boxes; 0 reads in the training process"})
    validate_every: int = field(default=5, metadata={"help": "epochs between validations"})
    clip_norm: float = field(default=12.0, metadata={"help": "largest norm of the gradient of a step"})


class EpochSampler:
    """The order of an epoch: (epoch, index) of every case once, shuffled by seed and epoch alone."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        return iter([(self.epoch, i) for i in torch.randperm(self.count, generator=generator).tolist()])


@dataclass
class Training:
    """Everything that one run holds while it trains.

    data_hash: of the cases that it trains and validates on, as they were when it began.
    """

    stage: Stage
    split: Split
    settings: TrainSettings
    device: torch.device
    folder: Path
    train_loader: DataLoader
    validation: BoxDataset
    net: nn.Module
    optimiser: torch.optim.Optimizer
    criterion: DualTaskLoss
    data_hash: str
    epochs_done: int = 0
    best_dice: float = -1.0

    @property
    def steps(self) -> int:
        """In the whole run."""
        return self.settings.epochs * len(self.train_loader)


def prepare_training(
    stage: Stage,
    split: Split,
    train_cases: Sequence[Case],
    validation_cases: Sequence[Case],
    settings: TrainSettings,
    device: torch.device,
    folder: Path,
    checkpoint: dict | None = None,
) -> Training:
    """Build the network, the optimiser and the loaders; with a checkpoint, in the state that it was saved in."""
    torch.manual_seed(settings.seed)  # of the initial weights
    net = DualTaskNet(width=settings.width, heads=stage.method.heads).to(device, memory_format=torch.channels_last_3d)
    avoid_slow_convolutions(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    dataset = BoxDataset(train_cases, stage.sampling, settings.seed)
    loader = DataLoader(
        dataset,
        batch_size=settings.batch_size,
        sampler=EpochSampler(len(dataset), settings.seed),
        num_workers=settings.workers,
        collate_fn=list,
        persistent_workers=settings.workers > 0,
        generator=torch.Generator(),  # the loader's own draws must not shift the dropout's
    )
    training = Training(
        stage,
        split,
        settings,
        device,
        folder,
        loader,
        BoxDataset(validation_cases, stage.sampling, None),
        net,
        optimiser,
        DualTaskLoss(
            stage.method.weights,
            min_cells=stage.min_cells,
            ramp=stage.method.ramp,
            steepness=stage.method.steepness,
        ),
        digest([*train_cases, *validation_cases]),
    )
    if checkpoint:
        if checkpoint["data_hash"] != training.data_hash:
            raise InputError(f"{folder}: its cases have been prepared anew since; start a new run without --resume")
        net.load_state_dict(checkpoint["net"])
        optimiser.load_state_dict(checkpoint["optimiser"])
        training.epochs_done, training.best_dice = checkpoint["epoch"], checkpoint["best_dice"]
    return training


def fit(training: Training) -> None:
    """Train to the last epoch. After each, ``last.pt`` holds all that is needed to go on as if never stopped."""
    log = RunLog(training.folder, training.epochs_done)
    title = f"{training.stage.title}, {training.split.name} held out"
    done = training.epochs_done * len(training.train_loader)
    with tqdm(total=training.steps, initial=done, unit="step", desc=title, mininterval=1) as bar:
        for epoch in range(training.epochs_done + 1, training.settings.epochs + 1):
            start = time.monotonic()
            row = {"epoch": epoch, **train_one_epoch(training, epoch, bar)}
            dice = ""
            if epoch == training.settings.epochs or epoch % training.settings.validate_every == 0:
                dice = validation_dice(training.net, training.validation, training.device)
                bar.set_postfix(loss=f"{row['loss']:.3f}", dice=f"{dice:.3f}")
            log.add_epoch({**row, "validation_dice": dice, "seconds": round(time.monotonic() - start, 2)})
            keep(training, epoch, dice)
            if dice != "":
                log.draw_curves(title)
    log.close()


def train_one_epoch(training: Training, epoch: int, bar: tqdm) -> dict[str, float]:
    """One pass over the training cases. Returns the mean of the loss and of each term, unweighted.

    Raises InputError naming the case when a loss or gradient is not finite or the memory does not suffice.
    """
    settings, loader = training.settings, training.train_loader
    training.net.train()
    loader.sampler.epoch = epoch
    torch.manual_seed(derive_seed(settings.seed, epoch))  # of the dropout
    sums: dict[str, float] = {}
    for step, samples in enumerate(loader):
        progress = ((epoch - 1) * len(loader) + step) / training.steps
        set_learning_rate(training, progress)
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, epoch, step + 1))
        names = ", ".join(sample.key for sample in samples)
        with naming_memory_errors(names, training.device, "start a new run with a smaller --batch-size or --width"):
            terms = train_step(training, samples, generator, progress)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        bar.update()
    return {"lr": training.optimiser.param_groups[0]["lr"], **{name: v / len(loader) for name, v in sums.items()}}


def train_step(
    training: Training, samples: Sequence[Sample], generator: torch.Generator, progress: float
) -> dict[str, torch.Tensor]:
    """Augment, make the views, forward, backward, update. Returns the loss, each term and the gradient's norm."""
    method, device = training.stage.method, training.device
    batch = make_batch(samples, device, generator)
    phi = method.distance_target(batch.mask, batch.spacing)
    images = random_views(batch.image, method.views, generator)
    with autocast(device):
        output = training.net(images.contiguous(memory_format=torch.channels_last_3d))
    loss, terms = training.criterion(output, batch.mask, phi, batch.spacing, generator, progress)
    training.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(training.net.parameters(), training.settings.clip_norm)
    terms = {"loss": loss.detach(), **terms, "gradient_norm": norm}
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        values = ", ".join(f"{name} {float(term):.3g}" for name, term in terms.items())
        raise InputError(f"{', '.join(batch.keys)}: loss not finite ({values}); look at the case or lower --lr")
    training.optimiser.step()
    return terms


def set_learning_rate(training: Training, progress: float) -> None:
    """Polynomial decay with power 0.9, per step; ``progress`` is the share of the steps that are done."""
    for group in training.optimiser.param_groups:
        group["lr"] = training.settings.lr * (1 - progress) ** 0.9


def keep(training: Training, epoch: int, dice: float | str) -> None:
    """Save ``best_so_far.pt`` where this epoch is the best on validation (or none can be told), then ``last.pt``.

    After the last epoch the best weights get their thresholds and become ``best.pt``: what has one is finished. The
    network is left holding them.
    """
    content = {
        "stage": training.stage.name,
        "held_out": training.split.name,
        "split_hash": training.split.hash,
        "data_hash": training.data_hash,
        "preparation": training.train_loader.dataset.cases[0].preparation.to_json(),
        "spacing_range": spacing_range(training.train_loader.dataset.cases, training.stage.sampling),
        "settings": asdict(training.settings),
        "method": training.stage.method.to_record(),
        "epoch": epoch,
        "net": {name: value.clone() for name, value in training.net.state_dict().items()},
    }
    so_far, finished = training.folder / "best_so_far.pt", epoch == training.settings.epochs
    if dice != "" and (math.isnan(dice) or dice > training.best_dice):
        training.best_dice = -1.0 if math.isnan(dice) else dice
        save_checkpoint(so_far, content)
    if finished:
        best = load_checkpoint(so_far, training.stage.name)
        training.net.load_state_dict(best["net"])
        thresholds = choose_thresholds(training.net, training.stage, training.validation.cases, training.device)
        save_checkpoint(training.folder / "best.pt", {**best, "thresholds": thresholds})
    state = {"best_dice": training.best_dice, "optimiser": training.optimiser.state_dict()}
    save_checkpoint(training.folder / "last.pt", {**content, **state})
    if finished:
        so_far.unlink()
    training.epochs_done = epoch


def derive_seed(*parts: int) -> int:
    """One seed for each (seed, epoch, step): nothing depends on what was drawn before."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part) % 2**63
    return seed
