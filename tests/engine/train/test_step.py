"""A step on its device: what it waits for, what it computes when compiled, and what it reports."""

from dataclasses import replace

import pytest
import torch

import engine.device
from data.common.errors import InputError
from engine.device import choose_execution
from engine.recipe import TrainSettings
from engine.stages import STAGES, VARIANTS, with_variant
from engine.train.loader import read_batches
from engine.train.loop import train
from engine.train.step import LossSums, guide_of, prepare_step, step_inputs, train_step
from models.losses import GUIDED
from models.views import SINGLE
from tests.engine.train.test_train import CPU, generators, read_losses, training_of

SETTINGS = TrainSettings(epochs=2, workers=0, lr=1e-3, ema_decay=0.9)
META = torch.device("meta")  # a device without numbers: whoever reads one gets an error


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "published"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reads_no_number_from_its_device(tmp_path, monkeypatch, stage, variant):
    """The published variant is left out: its distance is computed by SciPy, which needs the mask."""
    monkeypatch.setattr(
        "data.augment._generator_on", lambda *_: None
    )  # no generator draws for a device without numbers
    monkeypatch.setattr("models.tissue_views.noise_like", lambda image, _: torch.zeros_like(image))
    terms = ["reciprocal", "agreement", "deep", "tissue_contrast"]
    terms += GUIDED if with_variant(STAGES[stage], variant).method.views not in SINGLE else ()
    training = training_of(tmp_path, stage, SETTINGS, variant=variant, weights=[f"{t}=1" for t in terms], device=META)
    training.net.train()
    for samples in read_batches(training.loader):
        found = train_step(training, prepare_step(training, samples, generators(samples)), 1)
        assert all(term.device == META and term.ndim == 0 for term in found.values())
        with pytest.raises(RuntimeError):
            float(found["loss"])


def losses_of(training, steps: int = 20) -> list[float]:
    training.net.train()
    torch.manual_seed(0)
    samples = next(read_batches(training.loader))
    return [
        float(train_step(training, prepare_step(training, samples, generators(samples)), 1)["loss"])
        for _ in range(steps)
    ]


def test_the_plain_way_gives_the_same_losses(tmp_path):
    settings = replace(SETTINGS, lr=1e-4)  # Adam makes the more of rounding the higher the rate
    execution = choose_execution(CPU, plain=True)
    reference = losses_of(training_of(tmp_path, "tumor_fine", settings, execution=execution))
    assert losses_of(training_of(tmp_path, "tumor_fine", settings)) == pytest.approx(reference, rel=1e-3)


def test_kernels_that_cannot_be_used_are_told_of_once(monkeypatch, capsys):
    monkeypatch.setattr(engine.device, "why_not_fused", lambda: "Failed to find C compiler")
    engine.device.note_missing_kernels.cache_clear()
    for device in (CPU, torch.device("cuda"), torch.device("cuda")):
        engine.device.note_missing_kernels(device)
    assert capsys.readouterr().out.count("Triton fails: Failed to find C compiler") == 1
    engine.device.note_missing_kernels.cache_clear()


def test_losses_are_read_several_steps_at_a_time_and_a_fault_names_its_case():
    sums = LossSums(read_every=3)
    for value in (1.0, 2.0):
        sums.add(("c/a",), {"loss": torch.tensor(value)})
    assert sums.means() == {}
    sums.add(("c/b",), {"loss": torch.tensor(6.0)})
    sums.add(("c/b",), {"loss": torch.tensor(3.0)})
    sums.read()
    assert sums.means() == {"loss": 3.0}
    sums.add(("c/d", "c/e"), {"loss": torch.tensor(torch.nan), "dice": torch.tensor(0.5)})
    sums.add(("c/f",), {"loss": torch.tensor(1.0), "dice": torch.tensor(0.5)})
    with pytest.raises(InputError, match=r"c/d, c/e: the loss is not finite \(loss nan, dice 0.5\)"):
        sums.read()


def test_what_is_drawn_for_a_sample_does_not_depend_on_the_others(tmp_path):
    training = training_of(tmp_path, "tumor_coarse", SETTINGS)
    both = next(step_inputs(training, 1))
    samples = next(read_batches(training.loader))
    second = prepare_step(training, samples, generators(samples))
    alone = prepare_step(training, samples[1:], generators(samples)[1:])
    assert both.keys == second.keys
    assert torch.equal(second.images[1::2], alone.images) and torch.equal(second.mask[1:], alone.mask)


def test_the_average_of_the_weights_guides_without_dropout_and_draws_nothing(tmp_path):
    weights = ["union_consistency=1", "guided_transform=1"]
    training = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, batch_size=2), weights=weights)
    training.net.train()
    step = next(step_inputs(training, 1))
    before = torch.random.get_rng_state()
    guide = guide_of(training, step)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert guide.seg.shape == step.mask.shape and not guide.seg.requires_grad
    plain = training.average.eval()(step.images[:2])
    assert torch.equal(guide.seg, plain.seg) and torch.equal(guide.sdf, plain.sdf)
    train_step(training, step, 1)
    assert not torch.equal(guide_of(training, step).seg, guide.seg)
    assert guide_of(training_of(tmp_path, "tumor_coarse", SETTINGS), step) is None
    without = training_of(tmp_path, "tumor_coarse", replace(SETTINGS, ema_decay=0.0), weights=weights)
    assert guide_of(without, step) is None


def test_a_box_in_two_augmentations_is_two_images_of_which_the_first_are_those_of_the_baseline(tmp_path):
    settings = replace(SETTINGS, batch_size=2)
    once, twice = (
        next(step_inputs(training_of(tmp_path, "tumor_coarse", settings, variant=variant), 1))
        for variant in ("baseline", "fair-baseline")
    )
    assert twice.images.shape[0] == len(twice.mask) == 4 and twice.keys == 2 * once.keys
    assert torch.equal(twice.images[:2], once.images) and torch.equal(twice.mask[:2], once.mask)
    assert not torch.equal(twice.images[2:], once.images) and not torch.equal(twice.mask[2:], once.mask)
    training = training_of(tmp_path, "tumor_coarse", settings, variant="fair-baseline")
    assert torch.isfinite(train_step(training, twice, 0)["loss"])


def test_a_training_that_is_too_short_to_be_recorded_says_so(tmp_path, capsys):
    training = training_of(tmp_path, "pancreas_fine", replace(SETTINGS, epochs=11, validate_every=11))
    train(training, profile=3)
    assert "the training ended before 3 steps could be recorded after the first 10" in capsys.readouterr().out
    assert not (training.folder / "profile.txt").exists()


def test_steps_are_recorded_with_the_profiler(tmp_path):
    training = training_of(
        tmp_path, "pancreas_fine", TrainSettings(epochs=14, batch_size=2, workers=0, validate_every=14)
    )
    train(training, profile=2)
    assert "convolution" in (training.folder / "profile.txt").read_text()
    assert (training.folder / "profile.json").stat().st_size > 1000 and len(read_losses(training.folder)) == 14
