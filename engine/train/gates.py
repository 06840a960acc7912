"""Gates: does each term of the loss act? What a training measures of its gradients, and what it says at the end.

Every so many steps, and in the last one, the gradient of each weighted term on the layers that all heads share is
compared with that of Dice. A term whose share stays below the gate changes next to nothing and counts as absent:
nothing that such a run shows can be put down to it. Measuring changes nothing that is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from engine.processes import mean_tensor
from engine.train.training import Training
from models.gradients import compare_gradients
from models.losses import LEAST_SHARE, MOST_COSINE, NOT_GATED

REFERENCE = "dice"
# One measurement for so many steps and terms. The gradient of a term takes up to 0.8 of the time of a step, so that
# measuring takes a fiftieth of the training at most.
STEPS_PER_TERM = 40
SETTLED = 0.75  # share of a training after which the weights of all terms have risen; later measurements count


def measures(training: Training, done: int) -> bool:
    """Return whether the gradients of the terms are measured in the step after ``done`` steps."""
    active = training.stage.method.weights.active
    if REFERENCE not in active or not set(active) - set(NOT_GATED):
        return False
    every = STEPS_PER_TERM * len(active)
    return done % every == every - 1 or done == training.steps - 1


def measure_gradients(training: Training, weighted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compare the gradients of weighted terms, whose graph is kept, with that of Dice.

    Returns:
        "norm_<term>" and "cosine_<term>", scalars on the device. With a scaled loss, all norms are scaled alike.
    """
    scaled = {name: training.scaler.scale(term) for name, term in weighted.items()}
    found = compare_gradients(scaled, scaled[REFERENCE], training.net.shared_parameters(), mean_tensor)
    if training.execution.scales_loss:  # where a scaled gradient overflows
        found = {name: value.nan_to_num(nan=0.0, posinf=0.0) for name, value in found.items()}
    return found


def shares_of(means: Mapping[str, float]) -> dict[str, float | None]:
    """Replace the mean norms of an epoch by their shares of that of Dice, "share_<term>".

    Without a measurement on a box with a target, there is nothing to compare with, and the shares are None.
    """
    norms = {name.removeprefix("norm_"): value for name, value in means.items() if name.startswith("norm_")}
    left_out = {f"cosine_{REFERENCE}", *(f"norm_{term}" for term in norms)}
    row: dict[str, float | None] = {name: value for name, value in means.items() if name not in left_out}
    reference = norms.pop(REFERENCE, 0.0)
    return row | {f"share_{term}": norm / reference if reference else None for term, norm in norms.items()}


def describe_gates(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for every term that counts as absent in a training, from the rows of its epochs."""
    lines = []
    cosine = history[-1].get("tissue_cosine") if history else None
    if cosine not in (None, "") and float(cosine) > MOST_COSINE:
        lines.append(
            f"the loss term tissue_contrast counts as absent (as if left out): the cosine of two of its anchors was "
            f"{float(cosine):.2f} at the end, and above {MOST_COSINE} it does not tell cells apart"
        )
    settled = [row for row in history if row["epoch"] >= SETTLED * history[-1]["epoch"]]
    for column in dict.fromkeys(name for row in settled for name in row if name.startswith("share_")):
        term = column.removeprefix("share_")
        shares = [float(row[column]) for row in settled if row.get(column) not in (None, "")]
        if not shares or term in NOT_GATED:
            continue
        share = sum(shares) / len(shares)
        if share < LEAST_SHARE:
            lines.append(
                f"the loss term {term} counts as absent (as if left out): its gradient was {share:.2%} of that of "
                f"{REFERENCE} at the end, and less than {LEAST_SHARE:.0%} changes nothing that could be measured"
            )
    return lines
