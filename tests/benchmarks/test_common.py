"""Interleaving, tables, and the process in which the peers run."""

import argparse
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.common import add_options, convolution, count_operations, format_table, interleave, measure_peaks, timed
from benchmarks.peers.process import Peers, add_peers
from data.common.errors import InputError

CPU = torch.device("cpu")


def options(*typed: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser, repeats=3)
    add_peers(parser)
    return parser.parse_args([*typed])


def test_pieces_of_work_take_turns_and_the_first_turn_does_not_count():
    called = []
    seconds = {"a": iter([99.0, 3.0, 1.0, 2.0]), "b": iter([99.0, 5.0, 5.0, 8.0])}

    def work(name):
        return lambda: called.append(name) or next(seconds[name])

    timings = interleave({name: work(name) for name in seconds}, repeats=3)
    assert called == ["a", "b"] * 4
    assert timings["a"] == (2.0, 1.0, 2.0, 3) and timings["b"] == (5.0, 5.0, 6.0, 3)


def test_the_processor_clock_does_not_count_sleep():
    slept = {clock: timed(lambda: time.sleep(0.2), CPU, clock)() for clock in ("wall", "cpu")}
    assert slept["wall"] >= 0.2 > 5 * slept["cpu"]


def test_operations_of_a_convolution_and_the_peak():
    work = convolution(2, 8, (4, 5, 6), CPU, torch.float32)
    forward = 2 * 27 * 8 * 8 * 2 * 4 * 5 * 6
    assert count_operations(work) == 3 * forward
    assert all(rate > 1e6 for rate in measure_peaks(CPU, torch.float32, "wall", tiny=True).values())


def test_a_table_is_aligned_and_rounded():
    rows = [
        {"form": "a", "s": 0.123456, "voxels": 1234567.8, "n": 12000},
        {"form": "longer", "s": 2e-5, "voxels": None},
    ]
    assert format_table(rows).splitlines() == [
        "form          s     voxels       n",
        "a         0.123  1,234,568  12,000",
        "longer  2.0e-05          -       -",
    ]


def test_a_peer_does_its_work_in_its_own_process(capfd):
    args = options("--peers", sys.executable, "--threads", "1")
    with Peers(args, "tests.benchmarks.small_peer", ("torch", "no-such-package")) as peers:
        assert peers.versions == {"torch": torch.__version__}
        work, said = peers.build("sleeping", seconds=0.05)
        assert said == {"device": "cpu"} and 0.05 <= work() < 5
        printing, _ = peers.build("printing")
        assert 0 <= printing() < 0.05 <= work()
        assert peers.build("missing") is None
    assert "missing is not measured" in capfd.readouterr().err
    with pytest.raises(InputError, match="the process of the peers has ended"):
        work()


@pytest.mark.slow  # importing MONAI takes longer than the test
def test_monai_computes_the_same_distance():
    settings = {"shape": [12, 16, 16], "spacing": [2.0, 1.0, 1.0], "tau": 10.0}
    with Peers(options("--peers", sys.executable), "benchmarks.peers.signed_distance", ()) as peers:
        work, said = peers.build("MONAI", **settings)
        assert work() > 0 and said == {"difference": 0.0}


def test_without_peers_nothing_is_compared(capsys):
    with Peers(options("--peers", "none"), "benchmarks.peers.nnunet", ()) as peers:
        assert peers.build("nnU-Net") is None and peers.versions == {}
    with pytest.raises(InputError, match="no such file"):
        Peers(options("--peers", str(Path("/nowhere/python"))), "benchmarks.peers.nnunet", ())
