"""The recipe's table: every arm can be typed, and the runs of an arm become its row."""

import csv

import numpy as np
import pytest

from engine.checkpoint import create_run
from engine.stages import STAGES
from engine.train.options import parse
from experiments import recipe
from experiments.recipe import ARMS, BASELINE, COMMON, read_run, summarise


@pytest.mark.parametrize("stage", STAGES)
def test_every_arm_changes_the_baseline(stage):
    known = [parse(STAGES[stage], [*COMMON, *options]) for options in ARMS.values()]
    assert not ARMS[BASELINE] and all(options != known[0] for options in known[1:])
    assert all(known.index(options) == number for number, options in enumerate(known))


def test_a_run_counts_with_its_best_dice_and_the_time_of_its_steps(tmp_path):
    run = create_run(tmp_path, STAGES["pancreas_fine"], "west")
    rows = [(1, 10.0, "", ""), (2, 25.0, 0.5, 0.4), (3, 11.0, "", ""), (4, 26.0, 0.55, 0.6)]
    with (run / "losses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "seconds", "validation_dice", "validation_dice_average"))
        writer.writerows(rows)
    assert read_run(STAGES["pancreas_fine"], tmp_path, "west") == (0.6, 4 * 10.5)


def test_a_row_has_mean_and_deviation_over_the_seeds():
    cells = summarise(np.array([0.5, 0.6, 0.7]), np.array([60.0, 70.0, 80.0]))
    assert cells == {"seeds": "3", "dice": "0.600", "deviation": "0.100", "seconds": "70"}


def test_a_script_that_fails_is_named_with_its_log(tmp_path, capsys):
    argv = [str(tmp_path / "out"), "--store", str(tmp_path / "none"), "--data", "west", "--arms", BASELINE]
    assert recipe.main([*argv, "--seeds", "1", "--jobs", "1"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "pancreas_fine.log" in said and "exited with code 2" in said
