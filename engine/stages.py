"""The four stages of the cascade. The table in this file is the only place where stages differ."""

import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data.common.files import REPOSITORY
from data.common.program import IS_INSTALLED, PACKAGE, command_name
from data.samples import Sampling
from engine.method import Method
from models.losses import LossWeights
from models.signed_distance import TAU_MM

# A mask of a tumour stage that is smaller than this is no tumour: tumour fine then searches the pancreas, and a scan
# counts as free of tumours. It is 10 voxels of a clinical scan, of 0.8 x 0.8 x 2 mm.
MIN_TUMOUR_ML = 0.012
TUMOUR_TAU_MM = 5.0  # truncation of the distance to a tumour, most of which are smaller than 20 mm


@dataclass(frozen=True)
class Stage:
    """One stage of the cascade.

    Attributes:
        name: As in the scripts and below ``checkpoints/``.
        sampling: What the stage sees of a scan.
        method: How it learns.
        published: How the published release describes its learning.
        epochs: Length of the training by default.
        predecessor: The stage around whose mask it looks; None for the first.
        fallback: The stage around whose mask it looks where the predecessor found nothing.
    """

    name: str
    sampling: Sampling
    method: Method
    published: Method
    epochs: int
    predecessor: str | None
    fallback: str | None = None

    @property
    def before(self) -> tuple[str, ...]:
        """The stages around whose masks it may look."""
        return tuple(name for name in (self.predecessor, self.fallback) if name)

    def confirms(self, negatives: float) -> bool:
        """Return whether what the stage finds has to be found around the fallback's mask, too.

        Args:
            negatives: Share of the boxes of its training without a tumour. Only with them has its network learned to
                say where there is none.
        """
        return self.fallback is not None and negatives > 0

    @property
    def segments_pancreas(self) -> bool:
        """Whether the stage segments the pancreas, whose place the reference can take."""
        return self.sampling.target == "pancreas"

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def organ(self) -> str:
        """The organ in the names of the folders train_<organ> and evaluate_<organ>: "pancreas" or "tumor"."""
        return self.name.split("_")[0]

    def script_path(self, action: str) -> Path:
        """Return the script of this stage, relative to the repository's root; ``action`` is "train" or "evaluate"."""
        return Path(f"{action}_{self.organ}", f"{action}_sh_{self.name}.py")

    def script(self, action: str) -> str:
        """Return the command that runs this stage from the current folder; ``action`` is "train" or "evaluate"."""
        script = os.path.relpath(REPOSITORY / self.script_path(action))
        return command_name(shlex.join(["python", script]), f"{action} {self.name}")

    def program(self, action: str) -> str:
        """Return what the help text of "train" or "evaluate" calls the program."""
        return command_name(self.script_path(action).name, f"{action} {self.name}")

    def words(self, action: str) -> list[str]:
        """Return the words that run "train" or "evaluate" of this stage with this interpreter, from any folder."""
        if IS_INSTALLED:
            return [sys.executable, "-m", PACKAGE, action, self.name]
        return [sys.executable, str(REPOSITORY / self.script_path(action))]


_SEGMENT = LossWeights(dice=1, bce=1, contrast=0.1)
_DUAL = replace(_SEGMENT, sdf=1, transform=1, consistency=1)


def _published(weights: LossWeights, views: str = "raw-randconv", min_anchor_cells: int = 5) -> Method:
    """The release's method as far as it is known.

    Its views are unchecked, its distance is scaled per case, its transform is thresholded, and its heads read raw
    features.
    """
    return Method(
        weights,
        views,
        distance="per_case",
        steepness=math.inf,
        ramp=0.0,
        min_anchor_cells=min_anchor_cells,
        head_input="raw",
    )


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="pancreas_coarse",
            sampling=Sampling(target="pancreas", roi="scan", target_mm=(3.0, 2.0, 2.0), patch_mm=(240.0, 288.0, 352.0)),
            method=Method(replace(_SEGMENT, consistency_cosine=1), min_anchor_cells=10),
            published=_published(replace(_SEGMENT, consistency_cosine=1), min_anchor_cells=10),
            epochs=150,
            predecessor=None,
        ),
        Stage(
            name="pancreas_fine",
            sampling=Sampling(
                target="pancreas", roi="pancreas", jitter_z_mm=(-12.5, 12.5), jitter_plane_mm=(-16.0, 16.0)
            ),
            method=Method(_SEGMENT, views="none", min_anchor_cells=10),
            published=_published(_SEGMENT, views="none", min_anchor_cells=10),
            epochs=150,
            predecessor="pancreas_coarse",
        ),
        Stage(
            name="tumor_coarse",
            sampling=Sampling(
                target="tumour",
                roi="pancreas",
                jitter_z_mm=(2.5, 25.0),
                jitter_plane_mm=(0.0, 24.0),
            ),
            method=Method(_DUAL),
            published=_published(_DUAL),
            epochs=800,
            predecessor="pancreas_fine",
        ),
        Stage(
            name="tumor_fine",
            sampling=Sampling(
                target="tumour",
                roi="tumour",
                jitter_z_mm=(-2.5, 12.5),
                jitter_plane_mm=(-8.0, 32.0),
                target_mm=(1.5, 0.8, 0.8),
                patch_mm=(96.0, 153.6, 153.6),
                rounds=4,
            ),
            # In the box of tumour coarse, which is background nearly everywhere, absence would empty every prediction.
            # What that stage finds by mistake is left to this one.
            method=Method(replace(_DUAL, absence=0.2, sdf_consistency=1, slice=1)),
            published=_published(replace(_DUAL, sdf_consistency=1, slice=1)),
            epochs=500,
            predecessor="tumor_coarse",
            fallback="pancreas_fine",
        ),
    )
}


# Terms whose gradients are not dwarfed by that of Dice. The distance is learned by the band around the boundary. Of the
# second Dice through its head a little is left, without which that head takes long to see a target at all.
_ACTING = LossWeights(
    dice=1,
    bce=1,
    tissue_contrast=0.1,
    sdf=1,
    transform=0.1,
    reciprocal=0.25,
    union_consistency=0.04,
    guided_transform=0.5,
)


def redesigned(stage: Stage) -> Method:
    """Return the method with the terms that act, and those of the stage besides."""
    kept = {name: getattr(stage.method.weights, name) for name in ("absence", "slice", "deep")}
    return replace(
        stage.method,
        weights=replace(_ACTING, **kept),
        views="tissues",
        tau_mm=TAU_MM if stage.segments_pancreas else TUMOUR_TAU_MM,
        regression="band",
    )


# What an ablation compares. Each variant takes its part from the full method of the stage.
VARIANTS: dict[str, Callable[[Stage], Method]] = {
    "full": lambda stage: stage.method,
    "baseline": lambda stage: stage.method.only(),
    "fair-baseline": lambda stage: replace(stage.method.only(), views="twice"),
    "contrast": lambda stage: stage.method.only("contrast"),
    "views": lambda stage: stage.method.only("views"),
    "sdf": lambda stage: stage.method.only("sdf"),
    "hard-transform": lambda stage: replace(stage.method, steepness=math.inf),
    "published": lambda stage: stage.published,
    "redesigned": redesigned,
    "redesigned-no-contrast": lambda stage: redesigned(stage).without("contrast"),
    "redesigned-no-views": lambda stage: redesigned(stage).without("views"),
    "redesigned-no-sdf": lambda stage: redesigned(stage).without("sdf"),
}


def with_variant(stage: Stage, variant: str) -> Stage:
    """Return ``stage`` with the method of one of the VARIANTS."""
    return replace(stage, method=VARIANTS[variant](stage))


def distinct_variants(stage: Stage) -> list[str]:
    """Return the names of the VARIANTS, the baseline first, without those that compute the same as an earlier one."""
    found: dict[Method, str] = {}
    for name in sorted(VARIANTS, key=lambda name: name != "baseline"):
        found.setdefault(with_variant(stage, name).method.effective, name)
    return list(found.values())
