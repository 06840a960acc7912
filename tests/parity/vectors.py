"""Weights and inputs with which the test vectors of the published release were recorded."""

import json
from pathlib import Path

import numpy as np
import torch

PARITY = Path(__file__).resolve().parent
VARIANTS = ("seg", "seg_sdf", "seg_sdf_slice")


def published_state(variant: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Draw the parameters of a variant under the release's names, each with ``prefix`` before it."""
    names = json.loads((PARITY / f"original_{variant}_parameters.json").read_text())
    state = {}
    for i, (name, shape) in enumerate(names):
        value = np.random.default_rng([1, i]).standard_normal(shape).astype(np.float32) * np.float32(0.1)
        state[prefix + name] = torch.from_numpy(value + (len(shape) == 1 and name.endswith("weight")))
    return state


def recorded_input() -> torch.Tensor:
    """Draw the image whose outputs were recorded, shape (1, 1, 16, 24, 32)."""
    return torch.from_numpy(np.random.default_rng([1, 9999]).random((1, 1, 16, 24, 32)).astype(np.float32))


def recorded_outputs(variant: str) -> dict[str, np.ndarray]:
    """Read the outputs of a variant by name."""
    with np.load(PARITY / f"original_{variant}.npz") as file:
        return dict(file)


def recorded_losses() -> tuple[dict[str, torch.Tensor], dict]:
    """Read the inputs of the loss terms by name, and the value of each term."""
    with np.load(PARITY / "original_losses.npz") as file:
        inputs = {name: torch.from_numpy(array) for name, array in file.items()}
    return inputs, json.loads((PARITY / "original_losses.json").read_text())
