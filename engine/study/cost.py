"""How long the runs of a study will take: from its earlier runs on the same machine, or else from measured steps."""

import contextlib
import csv
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from data.common.records import read_yaml
from engine.checkpoint import BEST, list_runs
from engine.device import choose_device
from engine.memory import fit_step
from engine.stages import with_variant
from engine.study.plan import RunOptions
from engine.study.runs import Run, Study
from engine.train.cost import Meter, format_duration, measuring
from engine.train.plan import Plan

GPU_COUNTS = (2, 4, 8, 16, 32)  # for which the whole time is forecast


class Rate(NamedTuple):
    """How fast a variant trains.

    Attributes:
        step_s: Seconds of a step without validation where it was measured now, with its share of it in earlier runs.
        seconds: Of a whole training, by the centre that it holds out.
        origin: Where this is from, for the user.
    """

    step_s: float
    seconds: Mapping[str, float]
    origin: str


def describe_costs(
    study: Study,
    unfinished: Sequence[Run],
    *,
    options: RunOptions,
    plans: Mapping[str, Plan],
    gpus: Sequence[str],
    threads: int,
) -> str:
    """Forecast the time of the runs that are still to do.

    Args:
        study: With all runs that its folder has.
        unfinished: The runs, at least one.
        options: Of the study.
        plans: The cases, by the centre that is held out.
        gpus: The value of ``--gpu`` for each of the runs at the same time.
        threads: With which each run computes on the CPU.

    Returns:
        A line for the machine, for each variant, and for all runs together.

    Raises:
        InputError: If a step cannot be made, for instance because the memory does not suffice.
    """
    device = choose_device(gpus[0])
    rates: dict[str, Rate] = {}
    with measuring(device, threads) as meter:
        for run in unfinished:
            if run.variant not in rates:
                known = _rate_of_earlier_runs(study, run.variant, meter.machine)
                rates[run.variant] = known or _measure_rate(meter, run, options, plans, device)
    seconds = [rates[run.variant].seconds[run.centre] * (1 - _share_done(study, run)) for run in unfinished]
    lines = [f"  time on {meter.machine}, without the evaluation of the held-out cases:"]
    for variant, rate in rates.items():
        longest = format_duration(max(rate.seconds.values()))
        lines.append(f"    {variant}: {format_duration(rate.step_s)} a step ({rate.origin}), up to {longest} a run")
    whole = f"    in total {format_duration(sum(seconds))} for {len(seconds)} run(s)"
    if device.type == "cpu":
        more = [f"{format_duration(finish_time(seconds, len(gpus)))} with {len(gpus)} at a time"] if gpus[1:] else []
    else:
        counts = sorted({len(set(gpus)), *GPU_COUNTS} - {1})
        more = [f"{format_duration(finish_time(seconds, n))} on {n} GPUs" for n in counts if n <= len(seconds)]
    return "\n".join([*lines, ", ".join([whole, *more])])


def finish_time(seconds: Iterable[float], at_once: int) -> float:
    """Return after how long the last of some jobs ends, if each starts as soon as one before it has ended."""
    ends = [0.0] * at_once
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def _measure_rate(meter: Meter, run: Run, options: RunOptions, plans: Mapping[str, Plan], device: torch.device) -> Rate:
    stage, plan = with_variant(options.stage, run.variant), plans[run.centre]
    recipe = replace(options.recipe(plan.train_cases[0].preparation), method=stage.method)
    fit = fit_step(recipe, plan.training_cases, device)
    recipe = replace(recipe, sampling=fit.sampling)
    cost = meter.measure(plan.to_measure(replace(stage, sampling=fit.sampling), recipe, fit.recomputed))
    return Rate(
        cost.step_s, {name: each.seconds(cost, options.training) for name, each in plans.items()}, "measured now"
    )


def _rate_of_earlier_runs(study: Study, variant: str, machine: str) -> Rate | None:
    """Return the rate of the epochs that a study's runs of a variant have made on a machine; None without any.

    An earlier run counts from as many epochs on as there are between two validations.
    """
    settings = study.recipe["training"]
    steps, seconds, runs = 0.0, 0.0, 0
    for run in (run for run in study.runs if run.variant == variant):
        if folder := _newest_folder(study, run):
            epochs = _read_seconds(folder, machine)
            if len(epochs) >= settings["validate_every"]:
                steps += len(epochs) * study.steps[run.centre] / settings["epochs"]
                seconds, runs = seconds + sum(epochs), runs + 1
    if not steps:
        return None
    return Rate(seconds / steps, {c: n * seconds / steps for c, n in study.steps.items()}, f"of {runs} earlier run(s)")


def _newest_folder(study: Study, run: Run) -> Path | None:
    folders = list_runs(study.checkpoints(run), study.stage, run.centre)
    return folders[-1] if folders else None


def _read_seconds(folder: Path, machine: str | None = None) -> list[float]:
    """Read the seconds of each epoch of a run; none if it was started on another machine, or has no readable record."""
    with contextlib.suppress(OSError, ValueError, csv.Error, KeyError, TypeError, AttributeError):
        if machine is None or read_yaml(folder / "settings.yaml")["machine"] == machine:
            with (folder / "losses.csv").open(newline="") as file:
                return [float(row["seconds"]) for row in csv.DictReader(file)]
    return []


def _share_done(study: Study, run: Run) -> float:
    """Return which share of a training is done: 1 if only its evaluation is missing."""
    folder = _newest_folder(study, run)
    if folder is None:
        return 0.0
    return 1.0 if (folder / BEST).exists() else len(_read_seconds(folder)) / study.recipe["training"]["epochs"]
