"""The runs of a study: where each lies and what their record says.

<folder>/study.yaml                                  per stage, what all its runs have in common
         <variant>/seed_<seed>/                      checkpoints as the scripts keep them: <stage>/<centre>/<time>/
                               <stage>_<centre>.log  what the scripts said
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from data.common.errors import InputError
from data.common.files import replacing
from data.common.settings import from_record
from engine.checkpoint import list_runs
from engine.evaluate.stage import evaluation_folder
from engine.method import Method
from engine.stages import STAGES, Stage


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
    """What the runs of one stage have in common; ``study.yaml`` holds it.

    Attributes:
        cases, splits: hashes of the prepared cases and of how they are split.
        settings: of ``engine.train.loop.TrainSettings``, without the seed.
        variants: the method of each, as a record. readouts: what each is evaluated by.
        seeds: all that were asked for so far. steps: of a run, by the centre that it holds out.
        commands: those that made the study, in their order.
    """

    folder: Path
    stage: Stage
    store: Path
    cases: str
    splits: str
    settings: Mapping[str, float]
    average: bool
    variants: Mapping[str, dict]
    readouts: Mapping[str, str]
    seeds: tuple[int, ...]
    steps: Mapping[str, int]
    commands: tuple[str, ...]

    @property
    def roi(self) -> str | None:
        """Stages look in the reference pancreas, so that no variant is judged by the mistakes of the stages before.

        Tumour fine, in that pancreas, looks around what tumour coarse found: that of the same variant.
        """
        return "reference" if self.stage.predecessor else None

    def place(self, run: Run) -> Path:
        """What the scripts get as ``--path``."""
        return self.folder / run.variant / f"seed_{run.seed}"

    def log(self, run: Run) -> Path:
        return self.place(run) / f"{self.stage.name}_{run.centre}.log"

    def evaluation(self, run: Run) -> Path | None:
        """The results of a run's newest finished training; None where it has none yet."""
        for folder in reversed(list_runs(self.place(run), self.stage, run.centre)):
            found = evaluation_folder(folder, self.roi, self.readouts[run.variant])
            if (found / "summary.json").exists():
                return found
            if (folder / "best.pt").exists():
                return None
        return None

    def finished(self, run: Run) -> bool:
        """Whether it is trained and every held-out case is evaluated."""
        folder = self.evaluation(run)
        return folder is not None and not json.loads((folder / "summary.json").read_text())["counts"]["failed"]

    def runs(self) -> list[Run]:
        """Those that have results, whichever starts asked for them."""
        asked = [Run(v, seed, centre) for v in self.variants for seed in self.seeds for centre in self.steps]
        return [run for run in asked if self.evaluation(run)]


def read_studies(folder: Path) -> dict[str, Study]:
    """The studies of a folder by stage; none without a ``study.yaml``. Raises InputError where that is damaged."""
    path = folder / "study.yaml"
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text())
        studies = {}
        for name, record in content.items():
            tuples = {key: tuple(record[key]) for key in ("seeds", "commands")}
            common = {**record, **tuples, "store": Path(record["store"])}
            studies[name] = Study(folder=folder, stage=STAGES[name], **common)
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path}: not a record of a study ({line}); choose another folder, or repair it") from error
    return studies


def write_study(study: Study) -> None:
    """Put the record of this stage beside those of the others."""
    records = {}
    for name, other in {**read_studies(study.folder), study.stage.name: study}.items():
        fields = {key: value for key, value in vars(other).items() if key not in ("folder", "stage")}
        tuples = {key: list(fields[key]) for key in ("seeds", "commands")}
        records[name] = {**fields, **tuples, "store": str(other.store)}
    with replacing(study.folder / "study.yaml") as unfinished:
        unfinished.write_text(yaml.safe_dump(records, sort_keys=False))


def joined(study: Study) -> Study:
    """``study`` together with what its folder has of the same stage: more variants, seeds, centres may come, no more.

    Raises InputError naming what differs from the earlier starts.
    """
    name = study.stage.name
    before = read_studies(study.folder).get(name)
    path = study.folder / "study.yaml"
    if before is None:
        if stray := next(study.folder.glob(f"*/seed_*/{name}"), None):
            raise InputError(f"{stray}: runs that {path} does not know; choose another folder")
        return study
    if differences := list(_differences(before, study)):
        raise InputError(f"{path}: {'; '.join(differences)}; go on as it was started, or choose another folder")
    return replace(
        study,
        variants={**before.variants, **study.variants},
        readouts={**before.readouts, **study.readouts},
        seeds=tuple(dict.fromkeys((*before.seeds, *study.seeds))),
        steps={**before.steps, **study.steps},
        commands=tuple(dict.fromkeys((*before.commands, *study.commands))),
    )


def _differences(before: Study, now: Study) -> Iterator[str]:
    """What keeps two starts from being one study; a store that was merely moved does not."""
    if before.cases != now.cases:
        yield f"started with other prepared cases than {now.store} has now"
    if before.splits != now.splits:
        yield f"started with other splits than {now.store} has now"
    for key in {**before.settings, **now.settings}:
        old, new = before.settings.get(key), now.settings.get(key)
        if old != new:
            yield f"started with --{key.replace('_', '-')} {old}, not {new}"
    if before.average != now.average:
        yield f"started with{'' if before.average else 'out'} --average"
    for variant in before.variants.keys() & now.variants.keys():
        if _method(before.variants[variant]) != _method(now.variants[variant]):
            yield f"the code defines the variant {variant} otherwise than when it was started"


def _method(record: dict) -> Method | dict:
    """As the code reads it today: a setting that was added since has its default."""
    try:
        return from_record(Method, record)
    except (TypeError, KeyError, InputError):
        return record
