"""What the command line of a training script asks for."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path

from data.augment import Augmentation
from data.cases.case import Case
from data.cases.options import add_store
from data.cases.preparation import Preparation
from data.common.errors import InputError
from data.common.progress import add_quiet
from data.common.text import HelpFormatter, OptionGroup, add_examples
from data.splits.split import SYNTHETIC
from data.synthesis.settings import Synthesis
from engine.memory import Fit
from engine.method import Method
from engine.options import (
    add_allow_duplicates,
    add_changes,
    add_gpu,
    add_path,
    add_recipe_options,
    read_recipe_options,
    value_of,
)
from engine.recipe import FROZEN, NetworkSettings, Recipe, Start, TrainSettings
from engine.stages import VARIANTS, Stage, with_variant
from engine.train.initial import SEEN, InitialWeights, as_typed, read_initial_weights
from engine.train.trackers import TRACKERS, check_tracker

POSITIVE = ("epochs", "batch_size", "width", "validate_every", "lr", "clip_norm", "boxes_per_epoch")


@dataclass(frozen=True)
class TrainOptions:
    """What the command line of a training script asks for.

    Attributes:
        stage: With the method and the sampling as they were typed.
        network, augmentation, training: The rest of the recipe.
        synthesis: How synthetic patients are drawn, if the settings of the training ask for them.
        split: The split to train; None for every one that leaves a centre out.
        resume: Whether to go on with unfinished runs.
        dry_run: Whether to stop after saying what would be done.
        allow_duplicates: Whether to train although one scan is in two parts of a split.
        keep_patch: Whether the size of a patch was typed, so that it is not adapted to the memory.
        plain: Whether to compute in the plain way, as a reference for the fast one.
        profile: Number of steps to record with torch's profiler.
        tracker: Experiment tracker that gets the losses; empty for none.
        gpu, store, path: As in engine.options.
        initial: Weights that new runs begin with; None for random ones.
        adopted: Settings of that model that take the place of defaults of the stage, as they would be typed.
        freeze: Part of the network that keeps them, one of FROZEN.
    """

    stage: Stage
    network: NetworkSettings
    augmentation: Augmentation
    training: TrainSettings
    synthesis: Synthesis
    split: str | None
    resume: bool
    dry_run: bool
    allow_duplicates: bool
    keep_patch: bool
    plain: bool
    profile: int
    tracker: str
    gpu: str
    store: Path
    path: Path
    initial: InitialWeights | None = None
    adopted: tuple[str, ...] = ()
    freeze: str = "none"

    def recipe(self, cases: Sequence[Case], fit: Fit | None = None) -> Recipe:
        """Return the recipe of a run on these cases, which were all prepared in one way; none if all are synthetic.

        A patch that was not typed is the one that fits.
        """
        patch_mm = (self.stage if fit is None or self.keep_patch else fit).sampling.patch_mm
        return Recipe(
            network=self.network,
            method=self.stage.method,
            sampling=replace(self.stage.sampling, patch_mm=patch_mm),
            augmentation=self.augmentation,
            training=self.training,
            preparation=cases[0].preparation if cases else Preparation(),
            start=Start(str(self.initial.path), self.initial.sha256, self.freeze) if self.initial else Start(),
            synthesis=self.synthesis,
        )


def build_parser(stage: Stage) -> argparse.ArgumentParser:
    """Return the parser of the training script of ``stage``."""
    parser = argparse.ArgumentParser(
        prog=stage.program("train"),
        description=f"Train the stage {stage.title} on every leave-one-centre-out split of the prepared centres. How "
        "the cases were prepared is a property of their store; it is recorded with every run.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="CENTRE",
        help="train only the split that holds out this centre, or another split by its name; none trains on all "
        "centres (default: every split that holds a centre out; if there is only one centre, a fold of its patients)",
    )
    add_allow_duplicates(data)
    add_store(data)
    start = parser.add_argument_group("start of a run")
    start.add_argument(
        "--resume",
        action="store_true",
        help="continue unfinished runs after their last epoch, and start those that have not begun",
    )
    start.add_argument(
        "--dry-run", action="store_true", help="print what would be trained and how long it would take, and stop"
    )
    start.add_argument(
        "--init",
        type=Path,
        metavar="FILE_OR_RUN",
        help="begin with the weights of a model file, of a run folder or its best.pt, or of a checkpoint of the "
        "published release, as far as they fit; the width of the network and the voxels and HU window that it sees are "
        "then those of the model, unless they are typed (docs/fine_tuning.md)",
    )
    start.add_argument(
        "--freeze",
        choices=FROZEN,
        default="none",
        help="part of the network that keeps the weights of --init; encoder: everything down to the coarsest grid",
    )
    add_method_options(parser.add_argument_group("method"), stage)
    synthetic = add_recipe_options(parser, stage)
    synthetic.add_argument(
        "--train-on",
        metavar="synthetic[:DIR:TABLE]",
        help="train on synthetic patients only, without any prepared case, and validate on others; DIR holds label "
        "maps of organs, TABLE says what their codes mean, such as amos; TABLE torsos if DIR holds painted torsos of "
        "data.phantom --torsos (default: train on the prepared centres)",
    )
    add_machine_options(parser.add_argument_group("output and machine"))
    add_examples(
        parser,
        ("--dry-run", "print the cases, the steps and the time of every split, and train nothing"),
        ("--data hospital_a --resume", "hold out hospital_a; after an interruption, the same command continues"),
        ("--data none --init model.zip --epochs 50", "fine-tune a model on all prepared centres"),
        (
            "--train-on synthetic --epochs 50",
            "train on synthetic patients, without any scan",
        ),
    )
    return parser


def parse(stage: Stage, argv: Sequence[str] | None) -> TrainOptions:
    """Read the command line of the training script of ``stage``.

    Raises:
        InputError: If a setting is out of its range, or two settings contradict each other.
    """
    # None for what is not typed, in place of the default.
    args = build_parser(stage).parse_args(argv, argparse.Namespace(**{f.name: None for f in fields(NetworkSettings)}))
    if args.train_on is not None:
        read_train_on(args)
    elif args.data == SYNTHETIC:
        problem = "no split of prepared cases"
        raise InputError(f"--data {SYNTHETIC}", problem, f"to train on synthetic patients, use --train-on {SYNTHETIC}")
    initial = read_initial_weights(args.init, stage) if args.init else None
    usual, adopted = adopt_settings(initial, stage, args) if initial else (stage, ())
    for name, value in vars(NetworkSettings()).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    typed = read_recipe_options(args, usual)
    chosen = {name: getattr(args, name) for name in _method_options() if hasattr(args, name)}
    options = TrainOptions(
        stage=replace(typed.stage, method=with_variant(stage, args.variant).method.changed(args.weight, chosen)),
        network=typed.network,
        augmentation=typed.augmentation,
        training=typed.training,
        synthesis=typed.synthesis,
        split=args.data,
        resume=args.resume,
        dry_run=args.dry_run,
        allow_duplicates=args.allow_duplicates,
        keep_patch=any(change.startswith("patch_mm=") for change in args.sampling),
        plain=args.plain,
        profile=args.profile,
        tracker=args.tracker or "",
        gpu=args.gpu,
        store=args.store,
        path=args.path,
        initial=initial,
        adopted=adopted,
        freeze=args.freeze,
    )
    if options.freeze != "none" and options.initial is None:
        problem = "would keep random weights"
        raise InputError(f"--freeze {options.freeze}", problem, "name a model to begin with: --init FILE_OR_RUN")
    check_settings(options.training, options.network, only_synthetic=args.train_on is not None)
    if args.synthesis and not options.training.synthetic:
        problem = "no synthetic patient is asked for"
        raise InputError(f"--synthesis {args.synthesis[0]}", problem, "add --synthetic SHARE or --train-on synthetic")
    check_tracker(options.tracker)
    if options.profile < 0:
        raise InputError(f"--profile {options.profile}", "out of range", "give a number of steps, or 0 for none")
    return options


def adopt_settings(initial: InitialWeights, stage: Stage, args: argparse.Namespace) -> tuple[Stage, tuple[str, ...]]:
    """Take the settings that weights rely on from their model, wherever nothing else was typed.

    These are the size of the network, and the voxels and the HU window that it has seen. What a model of another stage
    has seen is not adopted, because this stage looks at something else.

    Args:
        initial: The weights.
        stage: That will be trained.
        args: What was typed; gets the size of the network, where it is None.

    Returns:
        The stage with the sampling of the model as its default, and what differs from its own, as it would be typed.
    """
    theirs, adopted = initial.recipe, []
    for name, usual in vars(NetworkSettings()).items():
        if getattr(args, name) is None:
            setattr(args, name, getattr(theirs.network, name))
            adopted += [as_typed(name, getattr(args, name))] if getattr(args, name) != usual else []
    if initial.stage != stage.name:
        return stage, tuple(adopted)
    typed = {change.partition("=")[0] for change in args.sampling}
    seen = {name: getattr(theirs.sampling, name) for name in SEEN if name not in typed}
    adopted += [as_typed(name, value) for name, value in seen.items() if value != getattr(stage.sampling, name)]
    return replace(stage, sampling=replace(stage.sampling, **seen)), tuple(adopted)


def add_method_options(parser: OptionGroup, stage: Stage) -> None:
    """Add the options that change the method of ``stage``."""
    parser.add_argument("--variant", choices=VARIANTS, default="full", help="variant of the method, for an ablation")
    add_changes(parser, "--weight", stage.method.weights, "change the weight of a loss term, here those of full")
    for name, option in _method_options().items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=f"{option.metadata['help']} (default: as in the variant; {getattr(stage.method, name)} in full)",
            **value_of(option),
        )


def add_machine_options(parser: OptionGroup) -> None:
    """Add the options that say where a run is kept and recorded, and how it is computed."""
    parser.add_argument(
        "--plain",
        action="store_true",
        help="compute in float32, layer by layer, as deterministically as torch can: slower, as a reference for the "
        "default",
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="record N steps with torch's profiler, in profile.txt and profile.json of the run",
    )
    parser.add_argument(
        "--tracker",
        choices=TRACKERS,
        help="also record the losses in Weights & Biases (wandb; offline in the run folder, unless WANDB_MODE is set) "
        "or MLflow (in ./mlflow.db, unless MLFLOW_TRACKING_URI is set) (default: in neither)",
    )
    add_gpu(parser)
    add_path(parser)
    add_quiet(parser)


def _method_options() -> dict[str, Field]:
    """The settings of the method that have an option of their own."""
    return {option.name: option for option in fields(Method) if option.metadata}


def read_train_on(args: argparse.Namespace) -> None:
    """Replace what was typed for ``--train-on`` by the settings that it stands for.

    Raises:
        InputError: If it is something else, or other options ask for prepared cases.
    """
    kind, colon, labels = args.train_on.partition(":")
    typed = f"--train-on {args.train_on}"
    if kind != SYNTHETIC or (colon and not labels):
        raise InputError(typed, "not a kind of patients", f"write {SYNTHETIC}, or {SYNTHETIC}:DIR:TABLE")
    if args.data is not None:
        raise InputError(typed, f"without prepared cases there is no split {args.data}", "leave out --data")
    if args.synthetic:
        problem = "all patients are synthetic"
        raise InputError(f"--synthetic {args.synthetic}", problem, f"leave it out, or {typed}")
    args.synthetic = 1.0
    args.synthesis += [f"labels={labels}"] if labels else []


def check_settings(training: TrainSettings, network: NetworkSettings, *, only_synthetic: bool = False) -> None:
    """Check the ranges of the settings that have options.

    Args:
        training: How the network is optimised.
        network: Its size.
        only_synthetic: Whether the training needs no prepared case.

    Raises:
        InputError: If nothing could be trained with a setting.
    """
    settings = {**vars(training), **vars(network)}
    for name, value in settings.items():
        if isinstance(value, str):  # one of the choices of its option
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name in POSITIVE):
            flag = f"--{name.replace('_', '-')} {value}"
            raise InputError(flag, "out of range", f"give a {'positive number' if name in POSITIVE else 'number >= 0'}")
    if training.negatives >= 1:
        problem = "leaves no step for the cases with a tumour"
        raise InputError(f"--negatives {training.negatives}", problem, "give a share below 1, or 0 for none")
    if training.synthetic >= 1 and not only_synthetic:
        problem = "leaves no box for the prepared cases"
        raise InputError(
            f"--synthetic {training.synthetic}", problem, f"give a share below 1, or use --train-on {SYNTHETIC}"
        )
    if training.boxes_per_epoch != TrainSettings.boxes_per_epoch and not only_synthetic:
        problem = "an epoch has a box of each prepared case"
        raise InputError(f"--boxes-per-epoch {training.boxes_per_epoch}", problem, f"add --train-on {SYNTHETIC}")
    if network.width % (network.groups or 1):
        problem = f"not a multiple of the {network.groups} groups"
        raise InputError(f"--width {network.width}", problem, "give another width, or other --groups")
    for flag, share in (("--warm-up", training.warm_up), ("--ema-decay", training.ema_decay)):
        if share >= 1:
            raise InputError(f"{flag} {share}", "not a share", "give a number from 0 to below 1")
