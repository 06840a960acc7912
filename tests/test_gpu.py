"""What only a GPU can show: that a step is not waited for, and that the fast way computes what the plain one does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from engine.device import Execution, choose_execution
from engine.infer.box import FLIPS, box_probability
from engine.recipe import TrainSettings
from engine.stages import STAGES
from engine.train.loader import read_batches
from engine.train.step import LossSums, prepare_step, step_inputs, train_step
from engine.train.training import Training
from models.blocks import StandardisedConv3d
from models.channels_last import why_not_fused
from tests.engine.train.test_train import generators, training_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
SETTINGS = TrainSettings(epochs=30, workers=0, lr=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_after_the_first_steps_nobody_waits_for_the_gpu(tmp_path, stage):
    """torch raises an error at everything that waits; the losses are read once at the end of the epoch."""
    training = training_of(tmp_path, stage, replace(SETTINGS, ema_decay=0.9), execution=choose_execution(GPU))
    assert why_not_fused() == ""
    training.net.train()
    late = training.steps // 2  # when all terms of the loss act
    for epoch in range(1, 6):  # compiles kernels, and allocates memory
        for done, step in enumerate(step_inputs(training, epoch), start=late):
            train_step(training, step, done)
    sums = LossSums(read_every=1000)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for epoch in range(6, 16):
            for done, step in enumerate(step_inputs(training, epoch), start=late):
                sums.add(step.keys, train_step(training, step, done))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    sums.read()
    assert np.isfinite(list(sums.means().values())).all()


def training_without_dropout(tmp_path, stage: str, execution: Execution) -> Training:
    """A training without dropout, whose draws differ between devices, and between a network and its record."""
    training = training_of(tmp_path, stage, SETTINGS, execution=execution)
    training.net.train()
    for module in training.net.modules():
        if isinstance(module, torch.nn.Dropout3d):
            module.p = 0.0
    return training


def losses_of(tmp_path, stage: str, execution: Execution) -> list[float]:
    """The losses of five steps; later, rounding is amplified."""
    training = training_without_dropout(tmp_path, stage, execution)
    samples = next(read_batches(training.loader))
    step = prepare_step(training, samples, generators(samples))
    return [float(train_step(training, step, done)["loss"]) for done in range(5)]


@pytest.mark.parametrize("stage", ["pancreas_fine", "tumor_fine"])
def test_the_fast_way_gives_the_losses_of_the_plain_one(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain = Execution(GPU, memory_format=torch.contiguous_format)
    fast = replace(choose_execution(GPU), precision=torch.float32)
    assert losses_of(tmp_path, stage, fast) == pytest.approx(losses_of(tmp_path, stage, plain), rel=1e-3)
    half = losses_of(tmp_path, stage, choose_execution(GPU))
    assert half == pytest.approx(losses_of(tmp_path, stage, plain), rel=5e-2)


@pytest.mark.parametrize("stage", STAGES)
def test_a_record_plays_what_the_network_computes(tmp_path, stage):
    """Of the images that it was made of, of others, and, computed without it, of images of another shape."""
    training = training_without_dropout(tmp_path, stage, choose_execution(GPU))
    net = training.net
    for sides in ((16, 32, 32), (16, 32, 32), (24, 32, 16)):
        images = torch.rand(2, 1, *sides, device=GPU)
        gradients = []
        for call in (training.forward, net):
            with training.execution.autocast():
                outputs = [output for output in tree_leaves(call(images)) if output is not None]
            sum(output.float().square().mean() for output in outputs).backward()
            gradients.append(torch.cat([weight.grad.flatten() for weight in net.parameters()]))
            net.zero_grad()
        assert gradients[1].norm() > 0 and (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()
    assert training.forward._play is not None  # else nothing was recorded, and the network was compared with itself


@pytest.mark.parametrize("stage", ["pancreas_fine", "tumor_fine"])
def test_a_record_trains_as_the_network_does(tmp_path, monkeypatch, stage):
    """Also in a step whose gradients are measured and after it, and for whoever uses the weights in between."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr("engine.train.step.measures", lambda _, done: done == 2)
    found = []
    for records in (True, False):
        execution = replace(choose_execution(GPU), precision=torch.float32, records=records)
        training = training_without_dropout(tmp_path, stage, execution)
        samples = next(read_batches(training.loader))
        step = prepare_step(training, samples, generators(samples))
        terms = []
        for done in range(5):
            terms.append({name: float(term) for name, term in train_step(training, step, done).items()})
            with torch.no_grad():
                convolutions = [m for m in training.net.modules() if isinstance(m, StandardisedConv3d)]
                assert all(torch.equal(conv._filters(), conv.standardised()) for conv in convolutions)
        assert (training.forward._play is not None) == records
        found.append(terms)
    for recorded, plain in zip(*found, strict=True):
        assert recorded == pytest.approx(plain, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_both_kinds_of_device_prepare_the_same_step_but_for_the_noise(tmp_path, monkeypatch, stage):
    """All draws are made on the CPU, but for those of the noise, which has a standard deviation of 0 here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = []
    for device in (CPU, GPU):
        training = training_of(tmp_path, stage, SETTINGS, device=device)
        training.recipe = replace(training.recipe, augmentation=replace(training.recipe.augmentation, noise=0.0))
        samples = next(read_batches(training.loader))
        found.append(prepare_step(training, samples, generators(samples)))
    ours, theirs = found
    assert (ours.images - theirs.images.cpu()).abs().mean() < 1e-4
    assert (ours.mask != theirs.mask.cpu()).float().mean() < 1e-4
    assert (ours.phi is None) == (theirs.phi is None)
    assert ours.phi is None or (ours.phi - theirs.phi.cpu()).abs().mean() < 1e-3


def test_a_gpu_gives_the_probabilities_of_a_cpu(tmp_path):
    """In half precision, so that they differ in the third decimal."""
    found = []
    for device in (CPU, GPU):
        training = training_of(tmp_path, "pancreas_fine", SETTINGS, device=device)
        (case,) = training.validation
        net = training.net.eval()
        found.append(box_probability(net, case.image(), case.spacing, stage=training.stage, device=device, flips=FLIPS))
    assert np.abs(found[0] - found[1]).mean() < 5e-3
