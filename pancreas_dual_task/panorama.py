"""Command: the algorithm of a container for the PANORAMA challenge on grand-challenge, one scan a call.

It reads and writes what the interfaces of the challenge name::

    /input/images/venous-ct/*.mha                          a CT scan in the portal-venous phase
    /output/images/pdac-detection-map/detection_map.mha    the likelihood of each candidate on its voxels, 0 elsewhere
    /output/pdac-likelihood.json                           the likelihood of a tumour in the scan, a number from 0 to 1

The clinical information that the challenge hands over as well is not used.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data.common.errors import InputError, command
from data.common.files import check_writable, replacing
from data.common.program import COMMAND
from data.common.text import HelpFormatter, add_examples
from engine.checkpoint import DEFAULT_CHECKPOINTS
from engine.options import add_average, add_fast, add_gpu
from pancreas_dual_task.api import load_cascade

SCANS = Path("images", "venous-ct")
DETECTION_MAP = Path("images", "pdac-detection-map", "detection_map.mha")
LIKELIHOOD = Path("pdac-likelihood.json")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Segment the scan in the input folder.

    Raises:
        InputError: If there is not exactly one scan, a model is missing, or the output folder cannot be written to.
    """
    args = _parse(argv)
    check_writable(args.output)
    if args.data and args.path.is_file():
        problem = f"{args.path} is a model file, so that there are no runs to choose among"
        raise InputError(f"--data {args.data}", problem, "leave it out, or give the folder of the runs with --path")
    scan = _find_scan(args.input / SCANS)
    cascade = load_cascade(args.path, split=args.data, device=args.gpu, average=args.average, fast=args.fast)
    detection = cascade.detect(scan)
    detection.save_likelihoods(args.output / DETECTION_MAP)
    with replacing(args.output / LIKELIHOOD) as unfinished:
        unfinished.write_text(json.dumps(round(detection.likelihood, 6)))
    print(
        f"{scan.name}: likelihood of a tumour {detection.likelihood:.3f}, "
        f"pancreas {detection.pancreas_ml:.1f} ml, tumour {detection.tumour_ml:.1f} ml"
    )
    for line in (*detection.doubts, *detection.notes):
        print(f"  {line}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"{COMMAND} panorama",
        description="Segment one scan as the PANORAMA challenge asks for it.",
        formatter_class=HelpFormatter,
    )
    data = parser.add_argument_group("scan")
    data.add_argument(
        "--input", type=Path, default=Path("/input"), metavar="DIR", help=f"folder that holds the scan as {SCANS}/*.mha"
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "--data",
        metavar="CENTRE",
        help="use the models that were trained without this centre; none: those that were trained on all centres "
        "(default: the only ones that there are)",
    )
    models.add_argument(
        "--path",
        type=Path,
        default=DEFAULT_CHECKPOINTS,
        metavar="DIR_OR_FILE",
        help="folder in which runs are kept, or a model file, to which --data does not apply",
    )
    method = parser.add_argument_group("method")
    add_average(method)
    add_fast(method)
    output = parser.add_argument_group("output and machine")
    output.add_argument(
        "--output",
        type=Path,
        default=Path("/output"),
        metavar="DIR",
        help=f"folder for {DETECTION_MAP} and {LIKELIHOOD}",
    )
    add_gpu(output)
    add_examples(
        parser,
        ("", "read /input and write /output, as the platform of the challenge runs a container"),
        ("--input scan --output out --path checkpoints", "try the same outside a container"),
        ("--input scan --output out --path model.zip", "use a model file in place of the runs"),
    )
    return parser.parse_args(argv)


def _find_scan(folder: Path) -> Path:
    scans = sorted(folder.glob("*.mha"))
    if len(scans) != 1:
        raise InputError(folder, f"holds {len(scans)} files *.mha, not 1", "put exactly one scan there")
    return scans[0]
