"""The table of admission: its two conditions, who counts, and that an interrupted call goes on."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from engine.stages import STAGES
from engine.train.options import parse
from experiments import admission
from experiments.admission import ERASED, OPTIONS, format_table, judge, judge_domain, measure, split_command_line
from experiments.bench_domains import DOMAINS, HELD_OUT

NAN = math.nan


def test_a_domain_with_a_gap_that_contrast_carries_is_admitted():
    verdict = judge([0.7, 0.5], [0.2, 0.2], [0.5, 0.3])
    assert (verdict.patients, verdict.reasons) == (2, ())
    assert (verdict.in_domain, verdict.erased, verdict.held_out) == pytest.approx((0.6, 0.2, 0.4))
    assert format_table({"hyper": verdict}).splitlines()[1].split() == [
        "hyper", "2", "0.600", "0.200", "0.400", "0.200", "yes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("erased", "held_out", "words"),
    [
        (0.2, 0.55, ["the gap is 0.050"]),
        (0.4, 0.3, ["carries 0.200 of 0.600"]),
        (0.4, 0.65, ["the gap is -0.050", "carries 0.200"]),
    ],
)
def test_each_condition_is_named_if_it_fails(erased, held_out, words):
    reasons = judge([0.6], [erased], [held_out]).reasons
    assert len(reasons) == len(words) and all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_a_network_that_finds_nothing_admits_no_domain():
    assert len(judge([0.0], [0.0], [0.0]).reasons) == 2
    assert judge([], [], []).reasons and judge([NAN], [0.1], [0.1]).patients == 0


def test_only_patients_of_both_domains_count():
    [domain] = [d for d in HELD_OUT if d.duct_only]
    dice = {f"{domain.base}/{p}_lesion": v for p, v in (("a", 0.8), ("b", 0.2))}
    dice |= {f"{domain.base}/{p}_lesion {ERASED}": 0.1 for p in "ab"} | {f"{domain.name}/a_lesion": 0.3}
    verdict = judge_domain(domain, dice, ["a", "b"])
    assert (verdict.patients, verdict.in_domain, verdict.held_out) == (1, 0.8, 0.3)


def test_measured_domains_are_not_measured_again_but_those_of_another_network_are(tmp_path, monkeypatch):
    scored = []

    def fake_score(model, scan):
        scored.append(scan)
        return 0.5

    def case(domain, version):
        image = np.zeros((2, 2, 2), np.int16)
        return SimpleNamespace(
            name=f"p_{version}", patient="p", key=f"{domain}/p_{version}", spacing=(2.0, 1.0, 1.0),
            image=lambda: image, label=lambda: image.astype(np.uint8),
        )  # fmt: skip

    monkeypatch.setattr(admission, "score", fake_score)
    centres = {d.name: [case(d.name, "lesion"), case(d.name, "free")] for d in DOMAINS}
    path = tmp_path / "dice.json"
    dice = measure(SimpleNamespace(sha256="a"), centres, {"p"}, path)
    assert len(scored) == len(dice) == len(DOMAINS) + 1 and f"portal_soft/p_lesion {ERASED}" in dice
    record = json.loads(path.read_text())
    del record["dice"]["hyper/p_lesion"]
    path.write_text(json.dumps(record))
    assert measure(SimpleNamespace(sha256="a"), centres, {"p"}, path) == dice and len(scored) == len(dice) + 1
    measure(SimpleNamespace(sha256="b"), centres, {"p"}, path)
    assert len(scored) == 2 * len(dice) + 1


def test_the_options_of_the_training_can_be_typed():
    options = parse(STAGES["tumor_coarse"], OPTIONS)
    assert options.stage.sampling.target_mm == (2.0, 2.0, 2.0) and options.training.ema_decay == 0.99


def test_what_follows_two_dashes_is_for_the_training():
    assert split_command_line(["out", "--", "--width", "16"]) == (["out"], ["--width", "16"])
    assert split_command_line(["out", "--steps", "20"]) == (["out", "--steps", "20"], [])
    changed = parse(STAGES["tumor_coarse"], [*OPTIONS, "--width", "16"])
    assert changed.network.width == 16


def test_a_store_that_is_no_bench_is_told_with_the_command_that_makes_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(admission, "read_store", lambda store: {"portal_soft": []})
    assert admission.main([str(tmp_path), "--store", "b"]) == 2
    assert "python -m experiments.bench b" in capsys.readouterr().err
