"""What is exported for other programs computes what PyTorch computes, and MONAI segments a scan with it."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from data.common.errors import InputError
from engine.export import networks
from engine.export.bundle import write_bundle
from engine.export.command import main
from engine.infer.box import NO_FLIPS, box_probability
from engine.infer.models import build_model
from models.dual_task_net import DualTaskNet, segmentation_probability
from models.plain import ProbabilityNet
from tests.conftest import affine_of, assert_clear
from tests.engine.export.made_runs import make_checkpoint, make_runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint("pancreas_coarse", target_mm=(3.0, 2.0, 2.0), patch_mm=(48.0, 64.0, 80.0))


@pytest.fixture(scope="module")
def program(checkpoint):
    return networks.trace(checkpoint)


@pytest.mark.parametrize("head_input", ["normalised", "raw"])
def test_a_network_of_torchs_own_layers_computes_the_same(head_input):
    net = DualTaskNet(width=8, head_input=head_input).eval()
    plain = ProbabilityNet(net)
    modules = {type(module).__module__ for module in plain.net.modules() if not list(module.children())}
    assert all(module.startswith("torch.nn") for module in modules)
    image = torch.rand(2, 1, 16, 8, 24)
    with torch.no_grad():
        assert torch.allclose(plain(image), segmentation_probability(net(image)), atol=1e-6)
    assert net.sdf is not None and all(p.requires_grad for p in net.parameters())  # the original is left as it is


def test_a_torch_export_computes_the_same_at_any_size(checkpoint, program, tmp_path):
    path = tmp_path / "pancreas_coarse.pt2"
    assert networks.write_program(path, program, checkpoint) <= networks.TOLERANCE
    module = torch.export.load(path).module()
    for shape in ((16, 16, 16), (24, 48, 40)):
        assert module(torch.rand(1, 1, *shape)).shape == (1, 1, *shape)


def test_an_onnx_file_computes_the_same_at_any_size(checkpoint, program, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is not installed")
    path = tmp_path / "pancreas_coarse.onnx"
    assert networks.write_onnx(path, program, checkpoint) <= networks.TOLERANCE
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # a single file
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (put,), (got,) = session.get_inputs(), session.get_outputs()
    assert (put.name, got.name) == (networks.INPUT, networks.OUTPUT)
    for shape in ((16, 16, 16), (24, 48, 40)):
        (probability,) = session.run(None, {put.name: np.random.default_rng(0).random((1, 1, *shape), np.float32)})
        assert probability.shape == (1, 1, *shape) and 0 <= probability.min() < probability.max() <= 1


def test_a_network_that_computes_something_else_is_not_written(checkpoint, program, tmp_path):
    other = make_checkpoint("pancreas_coarse", seed=1)
    with pytest.raises(InputError, match="differs by") as caught:
        networks.write_program(tmp_path / "net.pt2", program, other)
    assert_clear(caught.value, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_the_preprocessing_tells_what_the_network_reads(checkpoint, tmp_path):
    networks.write_preprocessing(tmp_path / "net.json", checkpoint, "its hash")
    said = json.loads((tmp_path / "net.json").read_text())
    assert said["target_mm"] == [3.0, 2.0, 2.0] and said["hu_window"] == [-100, 240] and said["threshold"] == 0.35
    assert said["input"]["axes"] == ["batch", "channel", "z", "y", "x"] and said["input"]["side_multiple_of"] == 8
    assert said["input"]["largest_shape_in_training"] == [16, 32, 40] and said["checkpoint_sha256"] == "its hash"
    assert said["box"]["around"] == "the body" and "the pancreas with its tumour" in said["output"]["meaning"]
    assert said["tumour_score_threshold"] is None and not said["confirmed"]
    last = networks.describe_preprocessing(make_checkpoint("tumor_fine"), "")
    assert last["box"]["mask_of"] == "tumor_coarse"
    assert last["tumour_score_threshold"] == 0.6125 and last["confirmed"]


@pytest.mark.parametrize(
    ("option", "missing", "installs"),
    [
        (["--onnx"], "onnxscript", "onnx onnxscript onnxruntime"),
        *((["--monai", "pancreas_coarse"], name, "'monai[fire,nibabel]'") for name in ("monai", "fire", "nibabel")),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_any_work(
    tmp_path, monkeypatch, capsys, option, missing, installs
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert main([str(tmp_path), "-o", str(tmp_path / "model.zip"), *option]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {option[0]}: not installed: {missing}. Install it: pip install {installs}\n"


@pytest.mark.slow
def test_the_command_writes_every_network_beside_the_model_file(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="ONNX is not installed")
    make_runs(tmp_path / "runs")
    argv = [str(tmp_path / "runs"), "-o", str(tmp_path / "model.zip"), "--data", "east"]
    assert main([*argv, "--onnx", "--torch-export", "--monai", "tumor_fine"]) == 0
    names = {path.name for path in (tmp_path / "model").iterdir()}
    stages = ("pancreas_coarse", "pancreas_fine", "tumor_coarse", "tumor_fine")
    assert names == {f"{stage}.{end}" for stage in stages for end in ("onnx", "pt2", "json")} | {"tumor_fine_bundle"}
    assert capsys.readouterr().out.count("differs from PyTorch by at most") == 9


@pytest.mark.slow
def test_monai_segments_a_scan_with_the_bundle_as_the_stage_does(checkpoint, program, tmp_path):
    """The scan has the voxels of the network's grid and the size of a patch, so that both see the same."""
    pytest.importorskip("fire", reason="the command line of MONAI needs fire")
    assert write_bundle(tmp_path / "bundle", program, checkpoint, "its hash", "the card") <= networks.TOLERANCE
    image = np.random.default_rng(0).normal(60, 80, (16, 32, 40)).astype(np.int16)  # (z, y, x) in LPS
    model = build_model(checkpoint, "a stage", CPU, run=Path("run"), sha256="")
    where = {"stage": model.stage, "device": CPU, "flips": NO_FLIPS}
    expected = box_probability(model.net, image, (3.0, 2.0, 2.0), **where)
    threshold = float(np.quantile(expected, 0.8))  # random weights: a threshold that divides the voxels
    config = tmp_path / "bundle" / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"threshold": 0.35', f'"threshold": {threshold}'))
    affine = affine_of((0, 1, 2), (-1, -1, 1), zooms=(2.0, 2.0, 3.0))
    (tmp_path / "bundle" / "scans").mkdir()
    nib.save(nib.Nifti1Image(image.T.copy(), affine), tmp_path / "bundle" / "scans" / "scan.nii.gz")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    done = subprocess.run(command, cwd=tmp_path / "bundle", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = nib.load(tmp_path / "bundle" / "masks" / "scan_pancreas_coarse.nii.gz")
    assert np.allclose(mask.affine, affine) and mask.shape == image.T.shape
    assert (np.asarray(mask.dataobj).T.astype(bool) == (expected > threshold)).mean() > 0.999
    described = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert described["network_data_format"]["inputs"]["image"]["spatial_shape"] == ["8*n", "8*n", "8*n"]
