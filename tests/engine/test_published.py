"""A checkpoint of the published release becomes a run that predict.py can use."""

import pytest
import torch

from data.samples import network_factor
from engine.infer.models import load_model
from engine.published import command as importer
from engine.stages import STAGES
from models.dual_task_net import DualTaskNet
from models.published import _MODULES

CPU = torch.device("cpu")


def release_parameters(stage: str, width: int = 8) -> dict[str, torch.Tensor]:
    """Random parameters by the release's names, as they would be on a multi-GPU run."""
    ours = {new: old.replace("\\", "") for old, new in _MODULES}
    renamed = {}
    published = STAGES[stage].published
    net = DualTaskNet(width=width, heads=published.heads, head_input=published.head_input)
    for name, value in net.state_dict().items():
        start = max((new for new in ours if name.startswith(f"{new}.")), key=len)
        theirs = ours[start] + name[len(start) :]
        for old, new in ((".norm", ".gn"), (".shortcut.", ".downsample.")):
            theirs = theirs.replace(old, new) if theirs.startswith(("layer", "seg_x")) else theirs
        renamed[f"module.{theirs}"] = value
    return renamed


@pytest.mark.parametrize("stage", ["pancreas_coarse", "tumor_coarse", "tumor_fine"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_imported_checkpoint_is_a_model(tmp_path, capsys, stage, wrapped):
    parameters = release_parameters(stage)
    torch.save({"epoch": 3, "net": parameters} if wrapped else parameters, tmp_path / "release.pth")
    argv = [str(tmp_path / "release.pth"), "--stage", stage, "--thresh", "0.7", "--path", str(tmp_path / "runs")]
    assert importer.main(argv) == 0
    model = load_model(tmp_path / "runs", stage, "none", CPU)
    assert str(model.run) == capsys.readouterr().out.strip() and model.threshold == 0.7
    theirs = parameters["module.conv_4_32.0.weight"]
    assert torch.equal(model.net.state_dict()["stem.weight"], theirs)
    # The release reads every second voxel in its first stage and every voxel in the others.
    factor = network_factor((2.5, 0.8, 0.8), model.stage.sampling)
    assert factor == ((2.0, 2.0, 2.0) if stage == "pancreas_coarse" else (1.0, 1.0, 1.0))


def test_what_is_no_such_checkpoint_is_refused(tmp_path, capsys):
    for name, content in (("text.pth", b"not a checkpoint"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        assert importer.main([str(tmp_path / name), "--stage", "tumor_fine", "--path", str(tmp_path / "runs")]) == 2
    torch.save(release_parameters("pancreas_fine"), tmp_path / "pancreas.pth")
    argv = [str(tmp_path / "pancreas.pth"), "--stage", "tumor_fine", "--path", str(tmp_path / "runs")]
    assert importer.main(argv) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith(f"error: {tmp_path}") for line in said)
    assert "has the heads seg, embedding, where tumor fine has" in said[-1]
    assert not (tmp_path / "runs").exists()
