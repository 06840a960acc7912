"""Experiment trackers: the rows of ``losses.csv`` in Weights & Biases or MLflow, on request.

Neither needs a network, unless the environment of the user says otherwise. A tracker only watches: whatever fails in it
is said in one line, and the training goes on without it. A run that is resumed goes on in the same tracked run, whose
identifier is kept in the run folder.
"""

import contextlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data.common.errors import InputError
from data.common.files import replacing
from data.common.program import COMMAND, install_command
from data.common.records import read_json, read_yaml

TRACKERS = ("wandb", "mlflow")
PROJECT = COMMAND  # of Weights & Biases, and experiment of MLflow
RECORD = "tracker.json"
# By default, both would keep a training waiting for minutes or hours if a server is gone. What the user has set in the
# environment comes first.
PATIENCE = {
    "WANDB_INIT_TIMEOUT": "30",  # s
    "WANDB_FINISH_TIMEOUT": "60",  # s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # s
}
LONGEST_REASON = 200  # characters of a fault
LONGEST_VALUE = 500  # characters of a setting, by the limits of MLflow
MOST_PARAMETERS = 100  # in a call of MLflow
Row = Mapping[str, float | None]


class Tracker(Protocol):
    """A run in an experiment tracker. Its methods raise whatever its package raises.

    Attributes:
        identity: What finds the run again.
        remembers: Whether a run that is resumed has its earlier epochs.
    """

    identity: dict[str, str]
    remembers: bool

    def log(self, row: Row) -> None:
        """Record an epoch, whose number is ``epoch`` of the row."""

    def close(self, *, failed: bool) -> None:
        """End the run; it may be resumed later."""


class WandbTracker:
    """A run of Weights & Biases: offline and in the run folder, unless WANDB_MODE and WANDB_DIR say otherwise.

    Offline, each part of a run has a file of its own, which is lost if the training is killed. The last one therefore
    gets all epochs, so that it is enough to upload it.

    Args:
        folder: The run folder.
        known: Identity of the run if it is resumed, else empty.
        name: Name of a new run.
        settings: Of the training.
    """

    def __init__(self, folder: Path, known: Mapping[str, str], name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=mode,
            dir=os.environ.get("WANDB_DIR", str(folder)),
            id=known.get("run"),
            resume="allow",
            name=name,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=mode == "offline"),
        )
        self.identity, self.remembers = {"run": self._run.id}, mode != "offline"

    def log(self, row: Row) -> None:
        """Record an epoch."""
        self._run.log(_values(row), step=int(row["epoch"] or 0))

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker:
    """A run of MLflow: in the file mlflow.db of the current folder, unless MLFLOW_TRACKING_URI says otherwise.

    The folder ./mlruns, where MLflow used to keep runs, is refused by its current versions.

    Args:
        folder: The run folder.
        known: Identity of the run if it is resumed, else empty.
        name: Name of a new run.
        settings: Of the training.
    """

    def __init__(self, folder: Path, known: Mapping[str, str], name: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it creates
        logging.getLogger("alembic").setLevel(logging.WARNING)
        local = known.get("uri") or f"sqlite:///{Path('mlflow.db').absolute()}"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or local
        self._client = MlflowClient(tracking_uri=uri)
        if run := known.get("run"):
            self._client.update_run(run, status="RUNNING")
        else:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            run = self._client.create_run(place, run_name=name).info.run_id
            params = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in _flatten(settings)]
            for start in range(0, len(params), MOST_PARAMETERS):
                self._client.log_batch(run, params=params[start : start + MOST_PARAMETERS])
        self.identity, self.remembers = {"run": run, "uri": uri}, True

    def log(self, row: Row) -> None:
        """Record an epoch."""
        from mlflow.entities import Metric

        now, epoch = int(1000 * time.time()), int(row["epoch"] or 0)
        metrics = [Metric(key, value, now, epoch) for key, value in _values(row).items()]
        self._client.log_batch(self.identity["run"], metrics=metrics)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.identity["run"], "FAILED" if failed else "FINISHED")


CLASSES: dict[str, Callable[..., Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


class Tracking:
    """A tracker of a run that ends with its first fault, which is printed once.

    Args:
        name: One of ``TRACKERS``.
        folder: The run folder, with its ``settings.yaml``.
        history: Rows of the epochs that are done, which the tracker gets as well if it does not have them.
    """

    def __init__(self, name: str, folder: Path, history: Sequence[Row]) -> None:
        self.name, self.folder = name, folder
        self._tracker: Tracker | None = None
        self._guard(lambda: self._open(history))

    def log(self, row: Row) -> None:
        """Record an epoch."""
        if tracker := self._tracker:
            self._guard(lambda: tracker.log(row))

    def close(self, *, failed: bool = False) -> None:
        """End the tracked run."""
        tracker, self._tracker = self._tracker, None
        if tracker:
            self._guard(lambda: tracker.close(failed=failed))

    def _open(self, history: Sequence[Row]) -> None:
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        record = self.folder / RECORD
        known = read_json(record) if record.exists() else {}
        settings = read_yaml(self.folder / "settings.yaml")
        title = f"{settings.get('stage', '')} {settings.get('split', '')} {self.folder.name}"
        self._tracker = tracker = CLASSES[self.name](self.folder, known.get(self.name, {}), title, settings)
        with replacing(record) as unfinished:
            unfinished.write_text(json.dumps(known | {self.name: tracker.identity}, indent=1))
        for row in () if self.name in known and tracker.remembers else history:
            tracker.log(row)

    def _guard(self, action: Callable[[], None]) -> None:
        """Do what a tracker is asked for; whatever it raises must not end the training, but ends the tracked run."""
        try:
            action()
        except Exception as error:
            tracker, self._tracker = self._tracker, None
            with contextlib.suppress(Exception):
                if tracker:
                    tracker.close(failed=True)  # or the tracker's own process would wait for this run to go on
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:LONGEST_REASON]
            print(f"note: {self.name} failed ({reason}), so this run is not tracked from here on")


def check_tracker(name: str) -> None:
    """Check that the package of a tracker is installed; an empty name stands for none.

    Raises:
        InputError: If it is not.
    """
    if name and importlib.util.find_spec(name) is None:
        problem = "this package is not installed"
        raise InputError(f"--tracker {name}", problem, "install it", command=install_command(name, name))


def _values(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "epoch" and value is not None}


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by names joined by dots, such as ``method.weights.dice``."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
