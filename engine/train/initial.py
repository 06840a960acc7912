"""The weights that a training begins with, taken from an existing model: ``--init``.

What fits into the network by name and shape is taken over. The heads that the other model lacks, and those that this
one has not, are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from data.common.errors import InputError
from data.common.files import sha256_of
from engine.checkpoint import BEST, Checkpoint, load_tensors, read_fields
from engine.model_file import is_model_file, read_model_file
from engine.published.release import read_release, release_recipe
from engine.recipe import Recipe
from engine.stages import Stage
from engine.training_centres import TrainingCentres, read_centres

REMEDY = "give a model file, a run folder, a best.pt, or a checkpoint of the published release"
SHOWN = 6  # parameters that a line names
SEEN = ("target_mm", "hu_window")  # settings of the sampling that decide what a network sees
# What a network has learned to rely on: settings of the recipe in which a training should agree with its start.
_RELIED_ON = {
    "network": ("groups", "leak"),
    "method": ("head_input",),
    "sampling": SEEN,
}


@dataclass(frozen=True)
class InitialWeights:
    """Weights to begin with.

    Attributes:
        path: File or folder, as it was typed.
        sha256: Of the checkpoint that they come from.
        parameters: By their names in ``DualTaskNet``.
        recipe: With which they were trained. That of the published release is known in part, and is taken for that of
            the stage that is to be trained.
        stage: Name of the stage that they were trained for.
        centres: Centres of the training cases, as far as they are recorded.
    """

    path: Path
    sha256: str
    parameters: Mapping[str, Tensor]
    recipe: Recipe
    stage: str
    centres: Sequence[str] = ()


def read_initial_weights(path: Path, stage: Stage) -> InitialWeights:
    """Read the weights that a training of ``stage`` is to begin with; nothing in the file is executed.

    Args:
        path: A model file, of which the stage of the same name is taken; a finished run, as its folder or its
            ``best.pt``, of whatever stage; or a checkpoint of the published release.
        stage: That will be trained.

    Raises:
        InputError: If there is no such file, or it holds none of these.
    """
    if is_model_file(path):
        checkpoint, sha256, centres = read_model_file(path, [stage.name]).stages[stage.name]
        return _of_checkpoint(path, sha256, checkpoint, centres)
    file = path / BEST if path.is_dir() else path
    if not file.is_file():
        problem = f"not a finished run: it holds no {BEST}" if path.is_dir() else "no such file"
        raise InputError(path, problem, REMEDY)
    content = load_tensors(file, REMEDY)
    if "format" in content:
        checkpoint = read_fields(content, file, None, REMEDY)
        return _of_checkpoint(path, sha256_of(file), checkpoint, read_centres(file.parent))
    net = read_release(file, REMEDY, content)
    return InitialWeights(path, sha256_of(file), net.state_dict(), release_recipe(net, stage.name), stage.name)


def _of_checkpoint(path: Path, sha256: str, checkpoint: Checkpoint, centres: TrainingCentres) -> InitialWeights:
    return InitialWeights(path, sha256, checkpoint.net, checkpoint.recipe, checkpoint.stage, centres.trained_on)


def find_fitting(initial: InitialWeights, net: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a network takes over: those of the same name and shape.

    Raises:
        InputError: If no filter is among them, so that the training would begin with random weights.
    """
    own = net.state_dict()
    fitting = {
        name: value for name, value in initial.parameters.items() if name in own and own[name].shape == value.shape
    }
    if any(value.ndim > 1 for value in fitting.values()):
        return fitting
    width = initial.recipe.network.width
    problem = f"none of its filters fits: its network has the width {width}"
    raise InputError(initial.path, problem, f"leave out --width, or type --width {width}")


def load_fitting(net: nn.Module, initial: InitialWeights) -> None:
    """Give a network the weights that fit; the others stay as they are.

    Raises:
        InputError: As for ``find_fitting``.
    """
    net.load_state_dict(find_fitting(initial, net), strict=False)


def describe_start(initial: InitialWeights, net: nn.Module, recipe: Recipe) -> str:
    """Return a line that says what a network takes over and what does not fit, and one more where it may suffer.

    Args:
        initial: The weights.
        net: The network, of which only names and shapes are read.
        recipe: Of the training.

    Raises:
        InputError: As for ``find_fitting``.
    """
    own, fitting = net.state_dict(), find_fitting(initial, net)
    parts = [f"  begins with {len(fitting)} of {len(own)} parameters of {initial.path} ({initial.sha256[:12]})"]
    random = [name for name in own if name not in fitting]
    unused = [name for name in initial.parameters if name not in fitting and name not in own]
    parts += [f"drawn at random (the file has none that fit): {_shorten(random)}"] if random else []
    parts += [f"not used: {_shorten(unused)}"] if unused else []
    parts += [f"{recipe.start.freeze} frozen"] if recipe.start.freeze != "none" else []
    lines = ["; ".join(parts)]
    if theirs := _settings_that_differ(initial.recipe, recipe):
        saw, uses = " ".join(theirs), " ".join(_settings_that_differ(recipe, initial.recipe))
        text = f"the model was trained with {saw}, but this run uses {uses}, with which its weights are worth less"
        lines.append(f"    warning: {text}: to train as the model was, type {saw}")
    return "\n".join(lines)


def _settings_that_differ(ours: Recipe, theirs: Recipe) -> list[str]:
    """Return the settings that weights rely on in which two recipes differ, as those of the first would be typed."""
    found = []
    for part, names in _RELIED_ON.items():
        one, other = getattr(ours, part), getattr(theirs, part)
        found += [as_typed(name, getattr(one, name)) for name in names if getattr(one, name) != getattr(other, name)]
    return found


def as_typed(name: str, value: object) -> str:
    """Return the option that gives a network, a method or a sampling this setting."""
    text = ",".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)
    return f"--sampling {name}={text}" if name == "hu_window" else f"--{name.replace('_', '-')} {text}"


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
