"""A run records its centres, and which of them are synthetic."""

import pytest
import yaml

from data.common.errors import InputError
from engine.training_centres import TrainingCentres, read_centres
from tests.conftest import assert_clear

COUNTS = {"train": {"b": 2, "a": 1}, "validation": {"b": 1}, "test": {"c": 3}}


def test_what_is_recorded_is_read_again(tmp_path):
    centres = TrainingCentres(COUNTS, ("a", "b"))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"stage": "tumor_fine", **centres.to_record()}))
    assert read_centres(tmp_path) == centres and centres.trained_on == ["a", "b"]


@pytest.mark.parametrize(
    ("train", "synthetic", "only"),
    [
        ({"a": 1, "b": 2}, ["a", "b"], True),
        ({"a": 1, "b": 2}, ["a", "c"], False),
        ({"a": 1, "synthetic": 9}, ["a"], True),
        ({"synthetic": 9}, [], True),
        ({}, [], False),
    ],
)
def test_a_model_is_synthetic_if_all_its_training_cases_are(train, synthetic, only):
    assert TrainingCentres({"train": train}, synthetic).only_synthetic == only


def test_of_a_run_without_a_record_nothing_is_known_and_a_damaged_one_is_refused(tmp_path):
    assert read_centres(tmp_path) == TrainingCentres() and not TrainingCentres().only_synthetic
    file = tmp_path / "settings.yaml"
    file.write_text("stage: tumor_fine\n")  # of an earlier version
    assert read_centres(tmp_path) == TrainingCentres()
    for damage in ("centres: 3", "centres: {train: [a]}", "centres: {train: {a: x}}", "synthetic_centres: a", "- 1"):
        file.write_text(damage)
        with pytest.raises(InputError, match="damaged") as caught:
            read_centres(tmp_path)
        assert_clear(caught.value, file)
