"""A wrong ROOT: the message says what is there instead and which folder to give."""

import pytest

from data.common.errors import InputError
from data.sources.catalogue import SOURCES
from tests import miniatures
from tests.data.sources.entry_helpers import touch
from tests.miniature_scan import write

PARTS_ANYWHERE = ("nih", "panorama")  # their parts are found wherever the user has put them


@pytest.mark.parametrize("source", miniatures.BUILDERS)
def test_an_archive_that_is_not_unpacked_is_named(source, tmp_path):
    archive = write(tmp_path / "download.tar.gz", b"x")
    with pytest.raises(InputError, match="this archive is not unpacked") as error:
        SOURCES[source].entries(tmp_path)
    assert error.value.path == archive and error.value.remedy == "unpack it there"


@pytest.mark.parametrize("source", [source for source in miniatures.BUILDERS if source not in PARTS_ANYWHERE])
def test_a_root_above_the_data_set_is_corrected(source, tmp_path):
    miniatures.BUILDERS[source](tmp_path / "inside")
    with pytest.raises(InputError) as error:
        SOURCES[source].entries(tmp_path)
    assert error.value.remedy == f"give {tmp_path / 'inside'} as ROOT"


@pytest.mark.parametrize("source, inner", [("msd", "imagesTr"), ("word", "imagesTr"), ("btcv", "img")])
def test_a_root_inside_the_data_set_is_corrected(source, inner, tmp_path):
    miniatures.BUILDERS[source](tmp_path / "set")
    with pytest.raises(InputError, match="the folder above has one") as error:
        SOURCES[source].entries(tmp_path / "set" / inner)
    assert error.value.remedy == f"give {tmp_path / 'set'} as ROOT"


def test_the_folder_of_images_as_root_is_corrected(tmp_path):
    touch(tmp_path / "images" / "a.nii.gz")
    with pytest.raises(InputError) as error:
        SOURCES["folder"].entries(tmp_path / "images")
    assert error.value.remedy == f"give {tmp_path} as ROOT"


def test_a_root_with_several_data_sets_names_them(tmp_path):
    for name in ("north", "south", "west"):
        touch(tmp_path / name / "images" / "a.nii.gz")
    with pytest.raises(InputError, match=r"3 folders have one \(north, south, west\)") as error:
        SOURCES["folder"].entries(tmp_path)
    assert error.value.remedy.endswith(f"such as {tmp_path / 'north'}")


def test_a_folder_of_the_right_name_without_scans_is_named(tmp_path):
    (tmp_path / "batch_1").mkdir()
    with pytest.raises(InputError, match="it holds no files of this data set") as error:
        SOURCES["panorama"].entries(tmp_path)
    assert error.value.path == tmp_path / "batch_1"
