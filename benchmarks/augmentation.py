"""How long does the augmentation of a box take, against MONAI, TorchIO and batchgeneratorsv2?

    python benchmarks/augmentation.py

All start from the Hounsfield units of the same box in memory and do the same work with the same probabilities
(benchmarks/peers/augmentation.py says how each package does it). As the draws differ from run to run, means are
compared. On a GPU ours includes the copy of the box to it; the peers compute on the CPU, as they are used.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.boxes import random_sample
from benchmarks.common import add_options, add_shape, interleave, report, start, timed
from benchmarks.peers.process import Peers, add_peers
from data.augment import Augmentation, make_batch
from data.cases.labels import HU_WINDOW
from data.common.errors import command

SPACING_MM = (2.0, 0.9, 0.9)
PEERS = ("MONAI", "TorchIO", "batchgeneratorsv2")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Time the augmentations and print a row of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser, (64, 128, 128))
    add_peers(parser)
    add_options(parser, repeats=12)
    parser.set_defaults(threads=1)
    args = parser.parse_args(argv)
    device = start(args)
    if args.tiny:
        args.shape = (16, 24, 24)
    augmentation, seeds = Augmentation(), itertools.count()
    sample = random_sample(args.shape, SPACING_MM, augmentation)

    def ours() -> object:
        generator = torch.Generator().manual_seed(next(seeds))
        return make_batch([sample], device, hu_window=HU_WINDOW, augmentation=augmentation, generators=[generator])

    works = {"ours": timed(ours, device, args.clock)}
    packages = ("monai", "torchio", "batchgeneratorsv2", "torch")
    with Peers(args, "benchmarks.peers.augmentation", packages, pages_kept=True) as peers:
        for name in PEERS:
            if built := peers.build(name, shape=list(args.shape), spacing=SPACING_MM):
                works[name], _ = built
        timings = interleave(works, args.repeats)
    rows = [
        {
            "package": name,
            "s": t.mean,
            "median s": t.median,
            "least s": t.least,
            "x ours": t.mean / timings["ours"].mean,
        }
        for name, t in timings.items()
    ]
    report(args, device, {f"Augmentation of {' x '.join(map(str, args.shape))} voxels": rows}, peers.versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
