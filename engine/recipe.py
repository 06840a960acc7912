"""The recipe of a stage: all settings that are needed to train it again and to compute with what was trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.common.settings import from_record
from data.samples import Sampling
from data.synthesis.settings import Synthesis
from engine.device import avoid_slow_convolutions, note_missing_kernels
from engine.method import Method
from models.blocks import Activation
from models.dual_task_net import DualTaskNet

FROZEN = ("none", "encoder")
OPTIMISERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class NetworkSettings:
    """The size of the network and what lies between its convolutions; its heads follow from the method."""

    width: int = field(default=32, metadata={"help": "channels at full resolution; the published network has 32"})
    groups: int = field(
        default=8,
        metadata={"help": "groups of channels that are normalised together; 0 normalises every channel on its own"},
    )
    leak: float = field(
        default=0.0, metadata={"help": "slope of the activation for negative values: 0 is ReLU, 0.01 a leaky ReLU"}
    )


@dataclass(frozen=True)
class TrainSettings:
    """How a network is optimised. The published values that differ are in the help."""

    epochs: int = field(default=0, metadata={"help": "passes over the training cases"})
    batch_size: int = field(default=2, metadata={"help": "boxes per optimisation step (published: 1)"})
    seed: int = field(default=2022, metadata={"help": "seed of every random draw"})
    negatives: float = field(
        default=0.25,
        metadata={"help": "share of the steps that see a scan without a tumour, if there are any; 0 for none"},
    )
    lr: float = field(
        default=1e-3, metadata={"help": "largest learning rate; it falls to 0 with power 0.9 (published: 1e-4)"}
    )
    warm_up: float = field(
        default=0.05, metadata={"help": "share of the steps over which the learning rate rises (published: 0)"}
    )
    optimiser: str = field(
        default="adam",
        metadata={
            "help": "adam adds the weight decay to the gradient, adamw subtracts it from the weights",
            "choices": tuple(OPTIMISERS),
        },
    )
    weight_decay: float = field(default=5e-4, metadata={"help": "weight decay of the optimiser"})
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "share that an exponential moving average of the weights keeps in a step; it is validated too, and "
            "the better weights are kept. 0 is none"
        },
    )
    workers: int = field(
        default=2, metadata={"help": "processes that read boxes; 0 reads them in the training process"}
    )
    validate_every: int = field(default=5, metadata={"help": "epochs between validations"})
    clip_norm: float = field(default=12.0, metadata={"help": "largest norm of the gradient of a step"})
    synthetic: float = field(
        default=0.0,
        metadata={
            "help": "share of the boxes of an epoch that show synthetic patients, each of them a new one, in addition "
            "to the cases; 0 for none",
            "added": True,
        },
    )
    boxes_per_epoch: int = field(
        default=200,
        metadata={"help": "boxes of an epoch if all of them are synthetic, as with --train-on", "added": True},
    )

    @property
    def only_synthetic(self) -> bool:
        """Whether there is no other case than synthetic patients."""
        return self.synthetic == 1


@dataclass(frozen=True)
class Start:
    """What the weights of a network are before its training begins.

    Attributes:
        path: File or run folder, as it was typed, whose weights the network began with; empty for random ones.
        sha256: Of the checkpoint that they come from.
        freeze: The part of the network that keeps these weights, one of FROZEN.
    """

    path: str = ""
    sha256: str = ""
    freeze: str = "none"


def new_network(network: NetworkSettings, method: Method) -> DualTaskNet:
    """Build a network with random weights, as torch lays it out by default."""
    return DualTaskNet(
        width=network.width,
        heads=method.heads,
        head_input=method.head_input,
        activation=Activation(network.groups, network.leak),
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a trained network is and how its input has to be prepared.

    A checkpoint holds the recipe, so that loading it restores these settings even if the defaults have changed.
    ``settings.yaml`` of a run shows the same.
    """

    network: NetworkSettings
    method: Method
    sampling: Sampling
    augmentation: Augmentation
    training: TrainSettings
    preparation: Preparation
    start: Start = field(default=Start(), metadata={"added": True})
    synthesis: Synthesis = field(default=Synthesis(), metadata={"added": True})

    def build_network(
        self, device: torch.device, memory_format: torch.memory_format = torch.channels_last_3d
    ) -> DualTaskNet:
        """Build the network on a device, with random weights, by default laid out in memory as it computes fastest."""
        note_missing_kernels(device)
        net = new_network(self.network, self.method)
        # The stubs of torch do not know that a module can be moved and given a memory format in one call.
        net = net.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        avoid_slow_convolutions(net)
        return net

    def to_record(self) -> dict[str, Any]:
        """Return the recipe as nested dictionaries of plain values, for a checkpoint or a YAML file."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Recipe":
        """Rebuild a recipe from ``to_record``.

        Raises:
            TypeError: If the record lacks a field of this version's recipe, or has one that is unknown.
        """
        return from_record(Recipe, record, complete=True)
