"""The hooks of avoid_slow_convolutions change how fast a network is, and nothing else."""

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from engine.device import ONEDNN_ABOVE, avoid_slow_convolutions
from models.blocks import StandardisedConv3d
from models.dual_task_net import DualTaskNet

SMALL, LARGE = (16, 24, 16), (40, 72, 16)  # all convolutions at full resolution are doubled in SMALL, few in LARGE


class DoublingConv3d(StandardisedConv3d):
    """What the hooks amount to, written into the convolution itself."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        if count == 1 and math.prod(x.shape[1:4]) <= ONEDNN_ABOVE:
            x = x.expand(2, -1, -1, -1, -1)
        return F.conv3d(x, self._filters(), None, self.stride, self.padding, self.dilation)[:count]


def network(*, hooked: bool = False, doubling: bool = False) -> DualTaskNet:
    torch.manual_seed(0)
    net = DualTaskNet(width=8)
    if hooked:
        avoid_slow_convolutions(net)
    if doubling:
        for module in net.modules():
            if isinstance(module, StandardisedConv3d):
                module.__class__ = DoublingConv3d
    return net


def outputs_and_gradients(net: DualTaskNet, shape: tuple[int, ...], batch: int) -> list[Tensor]:
    net.zero_grad()
    torch.manual_seed(1)  # the dropout's
    x = torch.rand(batch, 1, *shape, generator=Generator().manual_seed(2)).requires_grad_()
    *parts, deep, projection = net(x)
    output = [*parts, *deep, projection]
    sum(part.square().mean() for part in output).backward()
    return [*output, x.grad, *(p.grad.clone() for p in net.parameters())]


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_outputs_and_gradients_are_those_of_doubled_convolutions_to_the_last_bit(shape, batch):
    assert (8 * math.prod(shape[:2]) <= ONEDNN_ABOVE) == (shape is SMALL)
    hooked = outputs_and_gradients(network(hooked=True), shape, batch)
    assert_same_bits(hooked, outputs_and_gradients(network(doubling=True), shape, batch))
    plain = outputs_and_gradients(network(), shape, batch)
    if batch == 2:
        assert_same_bits(hooked, plain)
    for ours, expected in zip(hooked, plain, strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_convolution_that_failed_does_not_disturb_the_next_call():
    conv = StandardisedConv3d(2, 4)
    avoid_slow_convolutions(conv)
    with pytest.raises(RuntimeError):
        conv(torch.rand(1, 3, 8, 8, 8))  # three channels instead of two
    assert conv(torch.rand(2, 2, 8, 8, 8)).shape == (2, 4, 8, 8, 8)


def test_hooks_are_no_part_of_the_state():
    hooked, plain = network(hooked=True), network()
    assert list(hooked.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(hooked.state_dict())


def through_torch_save(net: DualTaskNet) -> DualTaskNet:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_pickle(net: DualTaskNet) -> DualTaskNet:
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save], ids=lambda f: f.__name__)
def test_a_copy_of_the_network_computes_the_same_and_is_independent(duplicate):
    net = network(hooked=True)
    twin = duplicate(net)
    assert_same_bits(outputs_and_gradients(net, SMALL, 1), outputs_and_gradients(twin, SMALL, 1))
    small, pair = torch.rand(1, 1, *SMALL), torch.rand(2, 1, *SMALL)
    net(small)
    assert twin(pair).seg.shape[0] == 2 and net(pair).seg.shape[0] == 2
    first_hooks = [next(iter(n.stem._forward_hooks.values())).__self__ for n in (net, twin)]
    assert first_hooks[0] is not first_hooks[1]
