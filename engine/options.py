"""Options that several commands share."""

import argparse
from pathlib import Path

from data.cases.store import DEFAULT_STORE
from engine.checkpoint import DEFAULT_CHECKPOINTS


def add_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", default="auto", help="auto, the number of a GPU, or cpu")


def add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", type=Path, default=DEFAULT_CHECKPOINTS, help="where runs are kept")


def add_average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--average", action="store_true", help="take the mean of both tasks, p and T(d), where the stage has both"
    )


def add_allow_duplicates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-duplicates", action="store_true", help="train although a scan lies on two sides of the split"
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, help="prepared centres")
