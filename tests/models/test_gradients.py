"""Norms and cosines of the gradients of loss terms, on two parameters whose gradients are known."""

import math

import pytest
import torch

from models.dual_task_net import DualTaskNet
from models.gradients import compare_gradients


def test_norm_and_cosine_are_those_of_the_gradients_and_the_graph_is_kept():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    frozen = torch.ones(3)
    dice, other = 3 * x[0], x.square().sum()  # gradients (3, 0) and (2, 4)
    terms = {"dice": dice, "other": other, "constant": torch.tensor(5.0)}
    found = {name: float(value) for name, value in compare_gradients(terms, dice, [x, frozen]).items()}
    assert found == pytest.approx(
        {
            "norm_dice": 3,
            "cosine_dice": 1,
            "norm_other": math.sqrt(20),
            "cosine_other": 2 / math.sqrt(20),
            "norm_constant": 0,
            "cosine_constant": 0,
        }
    )
    (dice + other).backward()
    assert x.grad.tolist() == [5, 4]


def test_the_shared_parameters_are_those_of_no_head():
    net = DualTaskNet(width=8)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    shared = {names[id(parameter)].split(".")[0] for parameter in net.shared_parameters()}
    assert {"stem", "bottom", "decoder1", "head_input"} <= shared
    assert not shared & {"seg", "sdf", "embedding", "slice", "deep"}
