"""What a training of one split sees: its cases and synthetic patients, how many boxes and steps that makes."""

from collections import Counter
from dataclasses import dataclass, field, replace

from data.cases.case import Case
from data.common.errors import InputError
from data.splits.split import Split, centre_of, centres_with, select_cases
from engine.recipe import Recipe, TrainSettings
from engine.stages import Stage
from engine.train.cost import Cost, Work
from engine.train.loader import count_negatives
from engine.train.synthetic import training_patients, validation_patients


@dataclass(frozen=True)
class Plan:
    """One split to train, with its cases.

    Attributes:
        split: The split.
        train_cases: Training cases that hold what the stage segments.
        negatives: Training cases that are known not to hold it: without a tumour, of a centre where tumours are
            labelled.
        validation_cases: Validation cases of both kinds; none if none of them holds what the stage segments.
        synthetic: Synthetic patients of which every epoch sees a box, to be drawn.
        synthetic_centres: Centres of the split whose prepared cases all show synthetic scans.
    """

    split: Split
    train_cases: list[Case]
    negatives: list[Case]
    validation_cases: list[Case]
    synthetic: list[Case] = field(default_factory=list)
    synthetic_centres: tuple[str, ...] = ()

    @property
    def training_cases(self) -> list[Case]:
        """Everything that may be trained on."""
        return [*self.train_cases, *self.synthetic, *self.negatives]

    def negatives_per_epoch(self, settings: TrainSettings) -> int:
        """Return how many boxes of the negatives an epoch has."""
        return count_negatives(len(self.train_cases), len(self.negatives), settings.negatives)

    def with_synthetic(self, recipe: Recipe) -> "Plan":
        """Return the plan with the synthetic patients that a recipe asks for."""
        drawn = self.negatives_per_epoch(recipe.training)
        synthetic = training_patients(recipe, len(self.train_cases), drawn)
        validation = validation_patients(recipe) if recipe.training.only_synthetic else self.validation_cases
        return replace(self, synthetic=synthetic, validation_cases=validation)

    def count_centres(self, settings: TrainSettings) -> dict[str, dict[str, int]]:
        """Return how many cases of each centre the parts of the split have, those of the test part as it names them."""
        negatives = self.negatives if self.negatives_per_epoch(settings) else []
        keys = {
            "train": [case.key for case in (*self.train_cases, *self.synthetic, *negatives)],
            "validation": [case.key for case in self.validation_cases],
            "test": self.split.test,
        }
        return {part: dict(Counter(map(centre_of, some))) for part, some in keys.items()}

    def to_measure(self, stage: Stage, recipe: Recipe, recomputed: int = 0) -> Work:
        """Return this plan as a training whose cost can be measured; ``recomputed`` as in ``DualTaskNet``."""
        cases = (self.train_cases, self.negatives, self.validation_cases)
        return Work(stage, self.split, recipe, *cases, recomputed, self.synthetic)

    def seconds(self, cost: Cost, settings: TrainSettings) -> float:
        """Return how long a training with these settings takes."""
        return cost.seconds(count_steps(self, settings), len(self.validation_cases), settings)


def plan_split(stage: Stage, split: Split, centres: dict[str, list[Case]]) -> Plan:
    """Collect the training and validation cases of a split: those that hold what the stage segments, and those without.

    Raises:
        InputError: If no training case holds it.
    """
    if split.kind == "synthetic":
        return Plan(split, [], [], [])
    target = stage.sampling.target
    known = centres_with(centres, target)
    train_cases, validation_cases = (
        [case for case in select_cases(centres, keys) if case.centre in known and case.pancreas_box]
        for keys in (split.train, split.validation)
    )
    positives, negatives = ([c for c in train_cases if bool(c.target_box(target)) == has] for has in (True, False))
    if not positives:
        raise InputError(
            f"split {split.name}", f"no training case has a labelled {target}", "prepare a centre that has one"
        )
    # Cases without a tumour alone would choose the epoch that finds least, which is that of an untrained network.
    can_rank = any(case.target_box(target) for case in validation_cases)
    in_split = {centre_of(key) for key in split.all_keys} & centres.keys()
    synthetic = tuple(name for name in sorted(in_split) if all(case.is_synthetic for case in centres[name]))
    return Plan(split, positives, negatives, validation_cases if can_rank else [], synthetic_centres=synthetic)


def describe(plan: Plan, settings: TrainSettings) -> str:
    """Return one line that says what a run will do."""
    after = f"validate on {len(plan.validation_cases)}, {settings.epochs} epochs, {count_steps(plan, settings)} steps"
    if settings.only_synthetic:
        without = sum(case.tumour_box is None for case in plan.synthetic) if settings.negatives else 0
        some = f" ({without} of them without a tumour)" if without else ""
        return f"  {plan.split.name}: train on {len(plan.synthetic)} new patients in every epoch{some}, {after}"
    counts = Counter(case.centre for case in plan.train_cases)
    parts = ", ".join(f"{centre} {count}" for centre, count in counts.items())
    drawn = plan.negatives_per_epoch(settings)
    boxes = len(plan.train_cases) + drawn + len(plan.synthetic)
    more = []
    if drawn:
        more.append(f"{len(plan.negatives)} without a tumour in {100 * drawn / boxes:.0f} % of the steps")
    if plan.synthetic:
        share = f"{100 * len(plan.synthetic) / boxes:.0f} %"
        more.append(f"{len(plan.synthetic)} new synthetic patients in every epoch, {share} of the steps")
    also = "".join(f" and {text}" for text in more)
    return f"  {plan.split.title}: train on {len(plan.train_cases)} cases ({parts}){also}, {after}"


def count_steps(plan: Plan, settings: TrainSettings) -> int:
    """Return the number of optimisation steps of a run."""
    boxes = len(plan.train_cases) + len(plan.synthetic) + plan.negatives_per_epoch(settings)
    return settings.epochs * -(-boxes // settings.batch_size)
