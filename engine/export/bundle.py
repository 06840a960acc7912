"""A MONAI bundle of a single stage, which ``python -m monai.bundle run`` segments scans with.

    configs/metadata.json    what the network reads and gives
    configs/inference.json   from a scan to a mask on its voxels
    models/model.pt2         the network, as torch.export writes it
    docs/README.md           the model card

The stage segments the whole image that it is given. What the cascade adds is not in the bundle: the box around the mask
of an earlier stage, the flips, the low pass before resampling, and the choice of components.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from data.common.files import replacing
from data.common.program import install_command
from data.samples import MULTIPLE, patch_shape
from engine.checkpoint import Checkpoint
from engine.export.card import read_licence
from engine.export.networks import check_packages, describe_preprocessing, write_program
from engine.stages import STAGES

RUN_WITH = ("fire", "nibabel")  # packages with which MONAI reads its command line and the scans
TILE_OVERLAP = 0.25  # share of a side that neighbouring windows have in common
LABEL = {"pancreas": "pancreas with its tumour", "tumour": "tumour of the pancreas"}


def check_monai_packages() -> None:
    """Check that MONAI and what it runs a bundle with are installed; errors are those of ``check_packages``."""
    check_packages("--monai", ("monai", *RUN_WITH), install_command("monai", f"monai[{','.join(RUN_WITH)}]"))


def write_bundle(folder: Path, program: ExportedProgram, checkpoint: Checkpoint, sha256: str, card: str) -> float:
    """Write a stage as a MONAI bundle; ``metadata.json``, which is written last, completes it.

    Args:
        folder: Of the bundle.
        program: The traced network.
        checkpoint: That it was traced from.
        sha256: Of the file of the checkpoint.
        card: The model card of the whole model.

    Returns:
        The largest difference of a probability from that of the network in PyTorch.

    Raises:
        InputError: As for ``write_program``.
    """
    difference = write_program(folder / "models" / "model.pt2", program, checkpoint)
    stage = STAGES[checkpoint.stage]
    note = f"This bundle holds one stage of the model, {stage.title}, without the rest of the cascade.\n\n"
    texts = {
        "LICENSE": read_licence(),
        "docs/README.md": note + card,
        "configs/inference.json": json.dumps(inference_config(checkpoint), indent=1),
        "configs/metadata.json": json.dumps(metadata(checkpoint, sha256), indent=1),
    }
    for name, text in texts.items():
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text)
    return difference


def inference_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the configuration with which MONAI segments the NIfTI files in ``dataset_dir`` into ``output_dir``."""
    sampling, name = checkpoint.recipe.sampling, checkpoint.stage
    low, high = sampling.hu_window
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        # Axes (z, y, x) that point to the head, the back and the left of the patient.
        {"_target_": "Orientationd", "keys": "image", "axcodes": "SPL"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(sampling.target_mm), "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0}
        | {"clip": True},
        {"_target_": "DivisiblePadd", "keys": "image", "k": MULTIPLE, "method": "end"},
    ]
    after = [
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}
        | {"nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": checkpoint.thresholds["segmentation"]},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": name}
        | {"output_dtype": "$np.uint8", "resample": False, "separate_folder": False},
    ]
    probability = "@inferer(scan['image'][None].to(@device), @network)[0].cpu()"
    load = "torch.export.load(@bundle_root + '/models/model.pt2')"
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch", "$import torch.export.passes"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "scans": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz') + glob.glob(@dataset_dir + '/*.nii'))",
        "network": f"$torch.export.passes.move_to_device_pass({load}, @device).module()",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': scan} for scan in @scans]",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(patch_shape(sampling)),
            "sw_batch_size": 1,
            "overlap": TILE_OVERLAP,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": after},
        # MONAI's evaluator would call eval(), which an exported network has not: it was traced for inference.
        "run": [f"$[@postprocessing(dict(scan, pred={probability})) and None for scan in @dataset]"],
    }


def metadata(checkpoint: Checkpoint, sha256: str) -> dict[str, Any]:
    """Return what MONAI records of a bundle."""
    stage, sampling = STAGES[checkpoint.stage], checkpoint.recipe.sampling
    shape = {"num_channels": 1, "spatial_shape": [f"{MULTIPLE}*n"] * 3, "dtype": "float32", "value_range": [0, 1]}
    image = {"type": "image", "format": "hounsfield", "modality": "CT", **shape, "is_patch_data": True}
    mask = {"type": "image", "format": "segmentation", **shape, "is_patch_data": True}
    alone = f"It looks around {describe_preprocessing(checkpoint, sha256)['box']['around']}; "
    alone += "the bundle gives it the whole image." if sampling.roi == "scan" else "crop the scan to that before."
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"{stage.title}, checkpoint {sha256[:16]}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {name: importlib.metadata.version(name) for name in RUN_WITH},
        "task": f"Segmentation of the {LABEL[sampling.target]} in CT",
        "description": f"The stage {stage.title} of a cascade that segments the pancreas and its tumours. {alone}",
        "authors": "the dual-task-pancreas contributors",
        "copyright": read_licence().splitlines()[2],
        "intended_use": "Research. Not a medical device.",
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {**mask, "channel_def": {"0": LABEL[sampling.target]}}},
        },
        "preprocessing": describe_preprocessing(checkpoint, sha256),
    }
