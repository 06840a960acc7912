"""THE table of the method: four stages. Everything that differs between stages is here and nowhere else."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from data.samples import Sampling
from engine.method import Method
from models.losses import LossWeights


@dataclass(frozen=True)
class Stage:
    """One stage of the cascade.

    name: as in the scripts and under checkpoints/. sampling: where it looks. method: how it learns.
    published: how the published release says that it learns. epochs: of the default training.
    min_cells: a slice of the bottom grid needs as many to give an anchor.
    predecessor: the stage whose mask says where to look. fallback: the one to turn to when that found nothing.
    rounds: at inference, at most as many times in the box of its own last mask.
    """

    name: str
    sampling: Sampling
    method: Method
    published: Method
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


_SEGMENT = LossWeights(dice=1, bce=1, contrast=0.1)
_DUAL = replace(_SEGMENT, sdf=1, transform=1, consistency=1)


def _published(weights: LossWeights, views: str = "raw-randconv") -> Method:
    """Its quirks as far as they are defined: views never drawn again, a distance per case, a transform cut off."""
    return Method(weights, views, distance="per_case", steepness=math.inf, ramp=0.0)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="pancreas_coarse",
            sampling=Sampling(target="pancreas", roi="scan", halve_below_mm=3.0),
            method=Method(replace(_SEGMENT, consistency_cosine=1)),
            published=_published(replace(_SEGMENT, consistency_cosine=1)),
            epochs=150,
            min_cells=10,
            predecessor=None,
        ),
        Stage(
            name="pancreas_fine",
            sampling=Sampling(
                target="pancreas", roi="pancreas", jitter_z_mm=(-12.5, 12.5), jitter_plane_mm=(-16.0, 16.0)
            ),
            method=Method(_SEGMENT, views="none"),
            published=_published(_SEGMENT, views="none"),
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
            method=Method(_DUAL),
            published=_published(_DUAL),
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
            method=Method(replace(_DUAL, sdf_consistency=1, slice=1)),
            published=_published(replace(_DUAL, sdf_consistency=1, slice=1)),
            epochs=500,
            min_cells=5,
            predecessor="tumor_coarse",
            fallback="pancreas_fine",
            rounds=4,
        ),
    )
}


def with_variant(stage: Stage, variant: str) -> Stage:
    """``stage`` with another method: one of VARIANTS."""
    return replace(stage, method=VARIANTS[variant](stage))


def distinct_variants(stage: Stage) -> list[str]:
    """The names in VARIANTS, the plain baseline first, without those that compute the same as one before them."""
    found: dict[Method, str] = {}
    for name in sorted(VARIANTS, key=lambda name: name != "baseline"):
        found.setdefault(with_variant(stage, name).method.effective, name)
    return list(found.values())


# What an ablation compares. Each takes its part from the full method of the stage.
VARIANTS: dict[str, Callable[[Stage], Method]] = {
    "full": lambda stage: stage.method,
    "baseline": lambda stage: stage.method.only(),
    "contrast": lambda stage: stage.method.only("contrast"),
    "views": lambda stage: stage.method.only("views"),
    "sdf": lambda stage: stage.method.only("sdf"),
    "hard-transform": lambda stage: replace(stage.method, steepness=math.inf),
    "published": lambda stage: stage.published,
}
