"""A network for programs without this project: as ONNX or as torch.export writes it, with a record of its input.

    pancreas_coarse.onnx, .pt2   a windowed image on the network's grid becomes a probability
    pancreas_coarse.json         how the image is made from a scan, and the mask from the probability

Every file is compared with the network in PyTorch before it appears.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from data.common.errors import InputError
from data.common.files import replacing
from data.common.program import install_command
from data.samples import MOST_VOXELS, MULTIPLE, patch_shape
from engine.checkpoint import Checkpoint
from engine.infer.box import flips_of
from engine.infer.candidates import score_threshold_name
from engine.stages import STAGES
from models.dual_task_net import segmentation_probability
from models.plain import ProbabilityNet

TOLERANCE = 1e-4  # of a probability
LEAST_SIDE = 2 * MULTIPLE  # torch.export treats a size of one cell as a constant
INPUT, OUTPUT = "image", "probability"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SHAPES = ((16, 24, 32), (32, 40, 16))  # of the images that the files are compared on; the first is traced


def check_packages(option: str, names: Sequence[str], command: str) -> None:
    """Check that the optional packages that an option needs are installed.

    Args:
        option: As it is typed.
        names: Of the packages, as they are imported.
        command: That installs all of them.

    Raises:
        InputError: If one is not installed; it names the command.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise InputError(option, f"not installed: {', '.join(missing)}", "install it", command=command)


def check_onnx_packages() -> None:
    """Check that the packages that write and compare ONNX are installed; errors are those of ``check_packages``."""
    check_packages("--onnx", ONNX_PACKAGES, install_command("onnx", *ONNX_PACKAGES))


def trace(checkpoint: Checkpoint) -> ExportedProgram:
    """Trace the probability of a trained network for images of any size.

    Args:
        checkpoint: With the weights.

    Returns:
        A program that maps "image", float32 in [0, 1], shape (1, 1, D, H, W), to "probability" of the same shape; each
        side is a multiple of MULTIPLE from LEAST_SIDE on.
    """
    net = checkpoint.recipe.build_network(torch.device("cpu"), torch.contiguous_format)
    net.load_state_dict(checkpoint.net)
    sides = {axis: MULTIPLE * Dim(name, max=MOST_VOXELS // MULTIPLE) for axis, name in ((2, "d"), (3, "h"), (4, "w"))}
    with _quietly():
        return torch.export.export(
            ProbabilityNet(net), (torch.rand(1, 1, *_SHAPES[0]),), dynamic_shapes={INPUT: sides}, strict=False
        )


def write_onnx(path: Path, program: ExportedProgram, checkpoint: Checkpoint) -> float:
    """Write a traced network as ONNX, whole or not at all.

    Args:
        path: To write.
        program: From ``trace``.
        checkpoint: That it was traced from.

    Returns:
        The largest difference of a probability from that of the network in PyTorch.

    Raises:
        InputError: If it computes something else; nothing is written then.
    """
    import onnxruntime

    with replacing(path) as unfinished:
        with _quietly():
            torch.onnx.export(
                program,
                f=unfinished,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
                dynamo=True,
            )
            session = onnxruntime.InferenceSession(unfinished, providers=["CPUExecutionProvider"])
        return compare(path, checkpoint, lambda image: torch.from_numpy(session.run(None, {INPUT: image.numpy()})[0]))


def write_program(path: Path, program: ExportedProgram, checkpoint: Checkpoint) -> float:
    """Write a traced network as ``torch.export.load`` reads it; arguments, result and errors as of ``write_onnx``."""
    with replacing(path) as unfinished:
        with _quietly():
            torch.export.save(program, unfinished)
            module = torch.export.load(unfinished).module()
        return compare(path, checkpoint, module)


def compare(path: Path, checkpoint: Checkpoint, compute: Callable[[Tensor], Tensor]) -> float:
    """Compare an exported network with the one that this project computes with, on random images of two sizes.

    Args:
        path: Of the exported network, for messages.
        checkpoint: That it was made from.
        compute: The exported network.

    Returns:
        The largest difference of a probability.

    Raises:
        InputError: If it is larger than TOLERANCE.
    """
    net = checkpoint.recipe.build_network(torch.device("cpu"))
    net.load_state_dict(checkpoint.net)
    net.eval()
    largest = 0.0
    for seed, shape in enumerate(_SHAPES):
        image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = segmentation_probability(net(image.contiguous(memory_format=torch.channels_last_3d)))
            largest = max(largest, float((compute(image) - expected).abs().max()))
    if not largest <= TOLERANCE:
        problem = f"a probability differs by {largest:.2g} from that of PyTorch, tolerance {TOLERANCE:g}"
        raise InputError(path, problem, "use another version of torch or onnxruntime")
    return largest


def write_preprocessing(path: Path, checkpoint: Checkpoint, sha256: str) -> None:
    """Write what a program has to know that uses an exported network: its input, its output and its threshold.

    Args:
        path: A JSON file.
        checkpoint: Of the network.
        sha256: Of the file of the checkpoint.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(describe_preprocessing(checkpoint, sha256), indent=1))


def describe_preprocessing(checkpoint: Checkpoint, sha256: str) -> dict[str, Any]:
    """Return the fields of ``write_preprocessing``."""
    stage, sampling = STAGES[checkpoint.stage], checkpoint.recipe.sampling
    flips = len(flips_of(checkpoint.recipe.augmentation.flip))
    whole = {"pancreas": "the pancreas with its tumour", "tumour": "a tumour of the pancreas"}[sampling.target]
    return {
        "stage": checkpoint.stage,
        "checkpoint_sha256": sha256,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": [1, 1, "D", "H", "W"],
            "axes": ["batch", "channel", "z", "y", "x"],
            "directions": {"z": "towards the head", "y": "towards the back", "x": "towards the patient's left"},
            "side_multiple_of": MULTIPLE,
            "side_at_least": LEAST_SIDE,
            "largest_shape_in_training": list(patch_shape(sampling)),
            "padding": "0 at the end of each axis",
        },
        "target_mm": list(sampling.target_mm),
        "hu_window": list(sampling.hu_window),
        "values": "clip((HU - hu_window[0]) / (hu_window[1] - hu_window[0]), 0, 1), then resampled linearly to "
        "target_mm after a low pass along the axes in which the voxels of the scan are smaller",
        "box": {
            "around": "the body" if sampling.roi == "scan" else f"the {sampling.roi}",
            "mask_of": stage.predecessor,
            "margin_mm": [0.0, 0.0, 0.0] if sampling.roi == "scan" else list(sampling.margin_mm),
            "rounds": sampling.rounds,
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": [1, 1, "D", "H", "W"],
            "meaning": f"probability that the voxel belongs to {whole}",
        },
        "threshold": checkpoint.thresholds["segmentation"],
        "tumour_score_threshold": checkpoint.thresholds.get(score_threshold_name("segmentation")),
        "confirmed": checkpoint.confirms,
        "confirmed_means": "what is found in the box counts only if it is found in a box around the pancreas, too",
        "flips": f"predict.py averages the probability over {flips} flips of the axes, and over none with --fast",
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to themselves what torch and onnxscript say about each other while a network is traced."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
