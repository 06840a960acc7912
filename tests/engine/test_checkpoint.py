"""A checkpoint is verified before it is opened, and its fields before they are used."""

import zipfile
from pathlib import Path

import pytest
import torch

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.common.errors import InputError
from engine.checkpoint import FORMAT, Checkpoint, load_checkpoint, load_tensors, save_checkpoint
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES

STAGE = STAGES["tumor_fine"]


def write(path: Path, **changes) -> bytes:
    """Write a small checkpoint, some of whose fields are others; return its bytes."""
    recipe = Recipe(NetworkSettings(8), STAGE.method, STAGE.sampling, Augmentation(), TrainSettings(), Preparation())
    facts = {"stage": STAGE.name, "split": "none", "split_hash": "0", "data_hash": "1", "recipe": recipe, "epoch": 3}
    facts |= {"spacing_range": [[1.0, 0.5, 0.5], [5.0, 0.9, 0.9]], "net": {"w": torch.rand(5000)}}
    save_checkpoint(path, Checkpoint(**{**facts, "thresholds": {"segmentation": 0.5}, **changes}))
    return path.read_bytes()


def test_one_flipped_bit_in_the_weights_is_noticed(tmp_path):
    path = tmp_path / "best.pt"
    content = bytearray(write(path))
    load_checkpoint(path, STAGE.name)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        load_checkpoint(path, STAGE.name)
    with pytest.raises(InputError, match="truncated or damaged"):  # also of the published release
        load_tensors(path, "give another file")


def test_an_archive_whose_positions_are_wrong_because_a_part_is_missing_is_called_damaged(tmp_path):
    path = tmp_path / "best.pt"
    content = write(path)
    path.write_bytes(content[:100] + content[len(content) // 2 :])
    with pytest.raises(InputError, match="truncated or damaged"):
        load_checkpoint(path, STAGE.name)


def test_an_archive_that_unpacks_to_more_than_its_size_is_not_unpacked(tmp_path):
    path = tmp_path / "best.pt"
    write(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="truncated or damaged"):
        load_checkpoint(path, STAGE.name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "3"),
        ("epoch", -1),
        ("epoch", True),
        ("net", {"w": 1.0}),
        ("net", {"w": torch.zeros(2, dtype=torch.complex64)}),
        ("net", None),
        ("thresholds", {"segmentation": 1.5}),
        ("thresholds", {"segmentation": "x"}),
        ("spacing_range", [[1.0, 2.0]]),
        ("spacing_range", 3),
        ("best_dice", "high"),
        ("optimiser", [1]),
        ("split_hash", None),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_refused(tmp_path, field, value):
    write(tmp_path / "best.pt", **{field: value})
    with pytest.raises(InputError, match="incomplete or out of range") as error:
        load_checkpoint(tmp_path / "best.pt", STAGE.name)
    assert "\n" not in str(error.value)


def test_a_file_without_fields_is_no_checkpoint(tmp_path):
    torch.save([FORMAT], tmp_path / "best.pt")
    with pytest.raises(InputError, match="it holds no fields"):
        load_checkpoint(tmp_path / "best.pt", STAGE.name)
