"""THE table of the method: four stages. Everything that differs between stages is here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from data.errors import InputError
from data.samples import Sampling
from models.losses import LossWeights


@dataclass(frozen=True)
class Stage:
    """One stage of the cascade.

    name: as in the scripts and under checkpoints/. sampling: where it looks. heads: of the network.
    weights: of the loss terms. views: random-convolution views per image; 1 is the plain image.
    epochs: of the default training. min_cells: a slice of the bottom grid needs as many to give an anchor.
    predecessor: the stage whose mask says where to look. fallback: the one to turn to when that found nothing.
    rounds: at inference, at most as many times in the box of its own last mask.
    """

    name: str
    sampling: Sampling
    heads: tuple[str, ...]
    weights: LossWeights
    views: int
    epochs: int
    min_cells: int
    predecessor: str | None
    fallback: str | None = None
    rounds: int = 1

    @property
    def before(self) -> tuple[str, ...]:
        """The stages whose masks it may look around."""
        return tuple(name for name in (self.predecessor, self.fallback) if name)

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def organ(self) -> str:
        """ "pancreas" or "tumor": the folders train_<organ> and evaluate_<organ>."""
        return self.name.split("_")[0]

    def script(self, action: str) -> str:
        """The command of this stage for ``action`` "train" or "evaluate", as a user types it from the root."""
        return f"python {action}_{self.organ}/{action}_sh_{self.name}.py"


_PANCREAS = LossWeights(dice=1, bce=1, contrast=0.1)
_TUMOUR = replace(_PANCREAS, sdf=1, transform=1, consistency=1)

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="pancreas_coarse",
            sampling=Sampling(target="pancreas", roi="scan", halve_below_mm=3.0),
            heads=("seg", "embedding"),
            weights=replace(_PANCREAS, consistency_cosine=1),
            views=2,
            epochs=150,
            min_cells=10,
            predecessor=None,
        ),
        Stage(
            name="pancreas_fine",
            sampling=Sampling(
                target="pancreas", roi="pancreas", jitter_z_mm=(-12.5, 12.5), jitter_plane_mm=(-16.0, 16.0)
            ),
            heads=("seg", "embedding"),
            weights=_PANCREAS,
            views=1,
            epochs=150,
            min_cells=10,
            predecessor="pancreas_coarse",
        ),
        Stage(
            name="tumor_coarse",
            sampling=Sampling(
                target="tumour",
                roi="pancreas",
                jitter_z_mm=(2.5, 25.0),
                jitter_plane_mm=(0.0, 24.0),
                max_voxels=4_500_000,
            ),
            heads=("seg", "sdf", "embedding"),
            weights=_TUMOUR,
            views=2,
            epochs=800,
            min_cells=5,
            predecessor="pancreas_fine",
        ),
        Stage(
            name="tumor_fine",
            sampling=Sampling(
                target="tumour",
                roi="tumour",
                jitter_z_mm=(-2.5, 12.5),
                jitter_plane_mm=(-8.0, 32.0),
                max_voxels=4_500_000,
            ),
            heads=("seg", "sdf", "embedding", "slice"),
            weights=replace(_TUMOUR, sdf_consistency=1, slice=1),
            views=2,
            epochs=500,
            min_cells=5,
            predecessor="tumor_coarse",
            fallback="pancreas_fine",
            rounds=4,
        ),
    )
}


def with_weights(stage: Stage, changes: Sequence[str]) -> Stage:
    """``stage`` with single weights changed: ``["sdf=0.5", "contrast=0"]``.

    Raises InputError for an unknown term, a value that is no number >= 0, or a term whose head or second view the
    stage does not have.
    """
    known = {field.name for field in fields(LossWeights)}
    weights = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = -1.0
        if name not in known or not 0 <= weights[name] < float("inf"):
            raise InputError(f"--weight {change}: write TERM=NUMBER with a TERM of {', '.join(sorted(known))}")
    changed = replace(stage, weights=replace(stage.weights, **weights))
    for term in changed.weights.active:
        need = _NEEDS.get(term)
        if need and need not in stage.heads and not (need == "views" and stage.views > 1):
            lacks = "a second view" if need == "views" else f"a head '{need}'"
            raise InputError(f"--weight {term}: the stage {stage.name} has not {lacks}, which this term needs")
    return changed


_NEEDS = {
    "contrast": "embedding",
    "sdf": "sdf",
    "transform": "sdf",
    "reciprocal": "sdf",
    "agreement": "sdf",
    "consistency": "views",
    "consistency_cosine": "views",
    "sdf_consistency": "sdf",
    "slice": "slice",
}
