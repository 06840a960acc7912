"""The runs of a study: where each of them is kept, and the record of what all of them share.

<folder>/study.yaml                                  per stage, the recipe, the variants and the commands of the study
         <variant>/seed_<seed>/                      checkpoints as the scripts keep them: <stage>/<centre>/<time>/
                               <stage>_<centre>.log  output of the scripts

A condensed study (engine.study.condense) has the tables ``runs.csv`` and ``cases.csv`` in place of these folders.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.files import replacing
from data.common.records import read_yaml
from data.common.settings import differences, from_record
from data.samples import Sampling
from data.synthesis.settings import Synthesis
from engine.checkpoint import BEST, list_runs
from engine.evaluate.earlier import evaluation_folder
from engine.method import Method
from engine.recipe import NetworkSettings, TrainSettings
from engine.report.tables import read_summary
from engine.stages import STAGES, Stage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECORD, RUNS_TABLE, CASES_TABLE = "study.yaml", "runs.csv", "cases.csv"
# The parts of a recipe that all runs of a study share, as engine.recipe.Recipe names them.
SHARED_PARTS: dict[str, type["DataclassInstance"]] = {
    "network": NetworkSettings,
    "sampling": Sampling,
    "augmentation": Augmentation,
    "training": TrainSettings,
    "preparation": Preparation,
    "synthesis": Synthesis,
}


@dataclass(frozen=True)
class Run:
    """One training and its evaluation."""

    variant: str
    seed: int
    centre: str

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}, {self.centre} held out"


@dataclass(frozen=True)
class Study:
    """What the runs of one stage share; ``study.yaml`` holds it.

    Attributes:
        folder: Of the study; all its stages are kept in it.
        stage: The stage that is trained.
        store: Folder of the prepared cases.
        data_hash: Hash of all prepared cases.
        split_hashes: Hashes of how the cases are split.
        recipe: The SHARED_PARTS of the recipe as plain values. The training lacks its seed and what does not change the
            result. Studies of earlier versions recorded only ``network`` and ``training``.
        average: Whether variants with a distance head are read out as the mean of both tasks.
        variants: The method of each variant as plain values.
        readouts: The readout by which each variant is evaluated.
        seeds: All seeds that were asked for so far.
        steps: Optimisation steps of a run, by the centre that it holds out.
        commands: The commands that made the study, in the order in which they were typed.
    """

    folder: Path
    stage: Stage
    store: Path
    data_hash: str
    split_hashes: tuple[str, ...]
    recipe: Mapping[str, Mapping[str, Any]]
    average: bool
    variants: Mapping[str, Mapping[str, Any]]
    readouts: Mapping[str, str]
    seeds: tuple[int, ...]
    steps: Mapping[str, int]
    commands: tuple[str, ...]

    @property
    def roi(self) -> str | None:
        """The pancreas in which the stage looks; None for the first stage, which reads the whole scan.

        It is the reference, so that no variant is judged by the mistakes of the stages before. Tumour fine looks, in
        that pancreas, around what tumour coarse of the same variant found.
        """
        return "reference" if self.stage.predecessor else None

    @property
    def runs(self) -> list[Run]:
        """All runs that were asked for so far, variant by variant."""
        return [Run(variant, seed, centre) for variant in self.variants for seed in self.seeds for centre in self.steps]

    @property
    def is_condensed(self) -> bool:
        """Whether the folder has the tables of a condensed study instead of the runs."""
        return (self.folder / CASES_TABLE).exists()

    def checkpoints(self, run: Run) -> Path:
        """Return the folder of the checkpoints of a run, which its scripts get as ``--path``."""
        return self.folder / run.variant / f"seed_{run.seed}"

    def run_folder(self, run: Run) -> Path:
        """Return the folder of the trainings of a run; who makes the run holds the lock on it."""
        return self.checkpoints(run) / self.stage.name / run.centre

    def log_file(self, run: Run) -> Path:
        """Return the file that collects the output of a run's scripts."""
        return self.checkpoints(run) / f"{self.stage.name}_{run.centre}.log"

    def find_evaluation(self, run: Run) -> Path | None:
        """Return the folder with the results of a run's newest finished training; None if it has none yet."""
        for folder in reversed(list_runs(self.checkpoints(run), self.stage, run.centre)):
            found = evaluation_folder(folder, self.roi, self.readouts[run.variant])
            if (found / "summary.json").exists():
                return found
            if (folder / BEST).exists():
                return None
        return None

    def is_finished(self, run: Run) -> bool:
        """Return whether a run is trained and every held-out case is evaluated."""
        folder = self.find_evaluation(run)
        return folder is not None and not read_summary(folder / "summary.json")["counts"]["failed"]


def read_studies(folder: Path) -> dict[str, Study]:
    """Read the ``study.yaml`` of a folder.

    Returns:
        The study of each stage by the name of the stage; empty if there is no such file.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return {name: _study_from_record(folder, STAGES[name], record) for name, record in read_yaml(path).items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        line = " ".join(str(error).split())
        raise InputError(path, f"not the record of a study ({line})", "repair it, or choose another folder") from error


def _study_from_record(folder: Path, stage: Stage, record: Mapping[str, Any]) -> Study:
    """Rebuild a study; records of before the whole recipe was recorded have ``settings``, ``cases`` and ``splits``."""
    values = dict(record)
    if "settings" in values:
        training = dict(values.pop("settings"))
        values["recipe"] = {"network": {"width": training.pop("width")}, "training": training}
        values |= {"data_hash": values.pop("cases"), "split_hashes": values.pop("splits").split()}
    tuples = {name: tuple(values[name]) for name in ("split_hashes", "seeds", "commands")}
    return Study(**{**values, **tuples, "folder": folder, "stage": stage, "store": Path(values["store"])})


def write_study(study: Study) -> None:
    """Write the record of a study into the ``study.yaml`` of its folder; those of other stages are kept."""
    records = {}
    for name, other in {**read_studies(study.folder), study.stage.name: study}.items():
        record = {f.name: getattr(other, f.name) for f in fields(Study) if f.name not in ("folder", "stage")}
        records[name] = {**record, "store": str(other.store)}
    with replacing(study.folder / RECORD) as unfinished:
        unfinished.write_text(yaml.safe_dump(records, sort_keys=False))


def merge_with_record(study: Study) -> Study:
    """Return ``study`` extended by what its folder already has of the same stage.

    Variants, seeds and centres may be added to a study. Everything else has to be as it was started, because the
    report compares all its runs with each other.

    Raises:
        InputError: If the recipe, the cases or the splits differ from those of the record, or if the folder is no place
            for runs of this study.
    """
    name, path = study.stage.name, study.folder / RECORD
    if study.is_condensed:
        raise InputError(study.folder, "holds the tables of a condensed study", "choose another folder for runs")
    before = read_studies(study.folder).get(name)
    if before is None:
        if stray := next(study.folder.glob(f"*/seed_*/{name}"), None):
            raise InputError(stray, f"holds runs that {path} does not record", "choose another folder")
        return study
    unrecorded = [part for part in SHARED_PARTS if part not in (*before.recipe, "synthesis")]  # of which there was none
    if unrecorded:
        problem = f"started with an earlier version, which did not record {', '.join(unrecorded)}"
        raise InputError(path, problem, "choose another folder")
    if found := _find_differences(before, study):
        raise InputError(path, "; ".join(found), "go on as it was started, or choose another folder")
    return replace(
        study,
        variants={**before.variants, **study.variants},
        readouts={**before.readouts, **study.readouts},
        seeds=tuple(dict.fromkeys((*before.seeds, *study.seeds))),
        steps={**before.steps, **study.steps},
        commands=tuple(dict.fromkeys((*before.commands, *study.commands))),
    )


def _find_differences(before: Study, now: Study) -> list[str]:
    """Say in words why two starts are not one study. A store that was only moved is no reason."""
    found = []
    if before.data_hash != now.data_hash:
        found.append(f"started with other prepared cases than {now.store} has now")
    if before.split_hashes != now.split_hashes:
        found.append(f"started with other splits than {now.store} has now")
    was, wanted = (
        {part: _fill_in_defaults(kind, study.recipe.get(part, {})) for part, kind in SHARED_PARTS.items()}
        for study in (before, now)
    )
    if was != wanted:
        ours, theirs = (", ".join(differences(*pair)) for pair in ((was, wanted), (wanted, was)))
        found.append(f"started with {ours}, now {theirs}")
    if before.average != now.average:
        found.append(f"started with{'' if before.average else 'out'} --average")
    for variant in sorted(before.variants.keys() & now.variants.keys()):
        was, wanted = (_fill_in_defaults(Method, study.variants[variant]) for study in (before, now))
        if was != wanted:
            ours, theirs = (", ".join(differences(*pair)) for pair in ((was, wanted), (wanted, was)))
            found.append(f"started with {ours} in the variant {variant}, which is now defined with {theirs}")
    return found


def _fill_in_defaults(kind: type["DataclassInstance"], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as this version reads them: one that was added since they were recorded has its default."""
    try:
        return asdict(from_record(kind, record))
    except (TypeError, KeyError, InputError):
        return dict(record)
