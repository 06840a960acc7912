"""How long does the truncated signed distance of a mask take, against SciPy, the package edt and MONAI?

    python benchmarks/signed_distance.py

All give the signed distance in mm, clipped at tau, on both sides of the boundary of the same mask of rounded blobs. The
difference is the largest one from SciPy's exact transforms, as a share of tau.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

if __name__ == "__main__":
    set_up_process(computes=True)  # before torch starts its threads

from benchmarks.boxes import random_blobs
from benchmarks.common import add_options, add_shape, interleave, report, start, timed
from benchmarks.peers.process import Peers, add_peers
from benchmarks.peers.signed_distance import scipy_distance
from data.common.errors import command
from models.signed_distance import TAU_MM, signed_distance

SPACING_MM = (2.5, 0.8, 0.8)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Time the implementations and print a row of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser, (96, 160, 160))
    add_peers(parser)
    add_options(parser, repeats=7)
    args = parser.parse_args(argv)
    device = start(args)
    if args.tiny:
        args.shape = (16, 24, 24)
    mask = random_blobs(args.shape, SPACING_MM)
    batch = torch.from_numpy(mask.astype(np.float32))[None, None].to(device)

    def ours() -> torch.Tensor:
        return signed_distance(batch, SPACING_MM)

    exact = scipy_distance(mask, SPACING_MM, TAU_MM)
    differences = {"ours": float(np.abs(ours()[0, 0].cpu().numpy() - exact).max()), "scipy": 0.0}
    works = {
        "ours": timed(ours, device, args.clock),
        "scipy": timed(lambda: scipy_distance(mask, SPACING_MM, TAU_MM), device, args.clock),
    }
    packages = ("edt", "monai", "scipy")
    with Peers(args, "benchmarks.peers.signed_distance", packages, pages_kept=True) as peers:
        for name in ("edt", "MONAI"):
            if built := peers.build(name, shape=list(args.shape), spacing=SPACING_MM, tau=TAU_MM):
                works[name], said = built
                differences[name] = said["difference"]
        timings = interleave(works, args.repeats)
    rows = [
        {
            "package": name,
            "s": timing.median,
            "least s": timing.least,
            "x ours": timing.median / timings["ours"].median,
            "difference": differences[name],
        }
        for name, timing in timings.items()
    ]
    report(args, device, {f"Signed distance of {' x '.join(map(str, args.shape))} voxels": rows}, peers.versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
