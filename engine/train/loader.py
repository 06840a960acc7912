"""Which boxes a training reads in which order, and how a fault of one of them is reported."""

import itertools
from collections.abc import Iterator
from typing import cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.common.errors import InputError
from data.samples import NOTHING_FOUND, BoxDataset, Sample
from engine.device import is_out_of_memory
from engine.processes import own_share

SILENCE_S = 600  # a process of the loader that sends nothing for so long is considered hung
Draw = tuple[int, ...]  # (epoch, index of the case), and of a case without the target the number of its round


def count_negatives(positives: int, available: int, share: float) -> int:
    """Return how many boxes of cases without the target an epoch has, so that they are a share of its boxes.

    Args:
        positives: Number of cases with the target; an epoch has a box of each.
        available: Number of cases without.
        share: Of the boxes of an epoch, in [0, 1). If it is not 0 and there is such a case, there is at least one box.
    """
    return max(1, round(positives * share / (1 - share))) if share and available else 0


def share_around_pancreas(negatives: float) -> float:
    """Return the share of the draws of a case with a tumour in which tumour fine looks around its pancreas.

    It is such that the boxes around a pancreas show a tumour as often as not. From boxes without one the network would
    learn that a box of this size holds none, and in use it is given such a box in order to find what tumour coarse has
    missed, and to confirm what it has found. Therefore it sees such boxes even if there is no case without a tumour.

    Args:
        negatives: Share of the boxes of an epoch that are to be of cases without a tumour, in [0, 1).
    """
    return min(NOTHING_FOUND, NOTHING_FOUND * negatives / (1 - negatives))


class EpochSampler(Sampler[list[Draw]]):
    """The boxes of each step of an epoch: every case with the target once, and some without, shuffled.

    Synthetic patients of both kinds count among the cases with the target: every one of them comes once. The last step
    is filled with the first boxes of the epoch, so that all have as many. The cases without the target follow each
    other in random rounds, in which every one of them comes once; an epoch goes on where the one before has ended. All
    depends on the seed and the epoch only.

    Args:
        positives: Number of cases with the target and of synthetic patients; their indices come first.
        seed: Seed of the draws.
        available: Number of cases without the target; their indices follow.
        negatives: How many of these an epoch has.
        batch_size: Boxes of a step, over all processes; each gets every n-th.

    Attributes:
        epoch: The epoch to draw, from 1.
    """

    def __init__(self, positives: int, seed: int, available: int = 0, negatives: int = 0, batch_size: int = 1) -> None:
        self.positives, self.seed, self.available, self.negatives = positives, seed, available, negatives
        self.batch_size, self.epoch = batch_size, 1

    def __len__(self) -> int:
        return -(-(self.positives + self.negatives) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = itertools.cycle(self._order())
        for _ in range(len(self)):
            yield list(own_share([*itertools.islice(draws, self.batch_size)]))

    def _order(self) -> list[Draw]:
        draws: list[Draw] = [(self.epoch, index) for index in range(self.positives)]
        first = (self.epoch - 1) * self.negatives
        orders: dict[int, list[int]] = {}
        for position in range(first, first + self.negatives):
            number, place = divmod(position, self.available)
            if number not in orders:
                orders[number] = self._shuffle(self.available, 0, number)  # no epoch has the number 0
            draws.append((self.epoch, self.positives + orders[number][place], number))
        return [draws[i] for i in self._shuffle(len(draws), self.epoch)]

    def _shuffle(self, count: int, *parts: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, *parts))
        return torch.randperm(count, generator=generator).tolist()


class NamingDataset(Dataset[Sample | InputError]):
    """Read boxes in the processes of a loader; whatever goes wrong there names its case.

    A loader process passes exceptions on as text. Errors that the user can correct are therefore returned in place of
    the sample and raised by the process that trains.
    """

    def __init__(self, boxes: BoxDataset) -> None:
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, item: Draw) -> Sample | InputError:
        key = self.boxes.cases[item[1]].key
        try:
            return self.boxes[item]
        except InputError as error:
            return error
        except Exception as error:
            if is_out_of_memory(error):
                return InputError(key, "reading its box needs more memory than there is", "use fewer --workers")
            if isinstance(error, OSError):
                return InputError(key, f"cannot be read ({error})", "check the disk of the store")
            raise RuntimeError(f"{key}: its box cannot be read") from error


def make_loader(boxes: BoxDataset, sampler: EpochSampler, workers: int) -> DataLoader[Sample | InputError]:
    """Build the loader that yields the samples of a step as a list, or an error in place of a sample."""
    return DataLoader(
        NamingDataset(boxes),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=workers > 0,
        timeout=SILENCE_S if workers else 0,
        generator=torch.Generator(),  # the loader's own draws must not shift those of the dropout
    )


def read_batches(loader: DataLoader[Sample | InputError]) -> Iterator[list[Sample]]:
    """Yield the samples of every step of an epoch.

    Args:
        loader: From ``make_loader``.

    Raises:
        InputError: If a case cannot be read, or if a process that reads boxes has died or is silent for SILENCE_S.
    """
    batches = iter(loader)
    for step in range(len(loader)):
        try:
            batch = next(batches)
        except RuntimeError as error:
            # torch has no type for a process of a loader that has died, or that has sent nothing for too long.
            if "DataLoader" not in str(error):
                raise
            awaited = next(itertools.islice(cast("EpochSampler", loader.batch_sampler), step, None))
            cases = cast("NamingDataset", loader.dataset).boxes.cases
            keys = ", ".join(cases[index].key for _, index, *_ in awaited)
            raise InputError(
                keys,
                f"no sample was received, as a process that reads boxes died or sent nothing for {SILENCE_S} s",
                "close other programs, use fewer --workers, or use --workers 0 to read in the training process",
            ) from error
        for sample in batch:
            if isinstance(sample, InputError):
                raise sample
        yield batch


def derive_seed(*parts: int) -> int:
    """Return one seed for each (seed, epoch, step), so that no draw depends on what was drawn before."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part) % 2**63
    return seed
