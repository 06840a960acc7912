"""Damaged scans and labels: what the readers of ``data.scans`` make of them.

Right outcomes:

- ``refused``: an InputError of one line that blames the file.
- ``undamaged``: the voxels and the geometry of the file before it was damaged.
- ``other values``, ``other place``: what an independent reader finds in the damaged file as well, where no checksum
  covers the damage: other values in the same place, or other sizes, spacings or positions. No reader can notice it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from data.scans.volume import Volume, read_image, read_label
from tests.fire.formats import KINDS, Damaged, Kind, as_read, copy_scan, damage_scan, make_images, same
from tests.fire.harness import attempt, report
from tests.other_readers import agrees


def attack(folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Read one damaged scan or label and judge the outcome."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # each thread would reserve address space, which is limited
    name = list(KINDS)[number % len(KINDS)]
    kind, rng = KINDS[name], np.random.default_rng((seed, number))
    label = bool(rng.integers(2))
    read = read_label if label else read_image
    image, other = make_images(rng, label)
    whole = read(kind.write(folder / "whole", image))
    kind.write(folder / "other", other)
    contents = (kind.damaged_file(folder / where).read_bytes() for where in ("whole", "other"))
    damaged = damage_scan(kind, *contents, rng, number // len(KINDS))
    copy_scan(folder / "whole", folder / "hit")
    kind.damaged_file(folder / "hit").write_bytes(damaged.content)
    path = folder / "hit" / f"scan{kind.suffix}" if kind.suffix else folder / "hit"
    made = attempt(lambda: read(path), folder / "hit")
    if made.result is not None:
        outcome, detail = _judge(made.result, whole, path, kind, damaged, label)
        made = made._replace(outcome=outcome, detail=detail)
    return report(made, whole.array.nbytes, kind=name, damage=damaged.how, label=label)


def _judge(volume: Volume, whole: Volume, path: Path, kind: Kind, damaged: Damaged, label: bool) -> tuple[str, str]:
    if same(volume, whole):
        return "undamaged", ""
    detail = f"{volume.describe()} instead of {whole.describe()}"
    moved = volume.array.shape != whole.array.shape or np.abs(volume.corners() - whole.corners()).max() >= 1e-3
    if damaged.noticeable:
        return "wrong volume", f"although the damage can be noticed: {detail}"
    try:
        reading = as_read(kind.read(path), label)
    except Exception as error:
        return "wrong volume", f"an independent reader refuses it ({type(error).__name__}: {error}); {detail}"[:400]
    if not agrees(volume, reading):
        return "wrong volume", f"an independent reader disagrees; {detail}"
    return "other place" if moved else "other values", detail
