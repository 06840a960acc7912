"""The table of losses of an interrupted run is continued, or refused if it is damaged."""

import pytest

from data.common.errors import InputError
from engine.train.run_log import RunLog

TABLE = "epoch,lr,loss,seconds\n1,0.01,0.9,1.5\n2,0.005,0.8,1.5\n"


def history(folder, text: bytes | str, epochs_done: int) -> list[dict]:
    (folder / "losses.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    log = RunLog(folder, epochs_done)
    log.close()
    return log.history


def test_the_rows_of_the_epochs_that_are_kept_are_read(tmp_path):
    assert history(tmp_path, TABLE, 1) == [{"epoch": 1, "lr": 0.01, "loss": 0.9, "seconds": 1.5}]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff" + TABLE.encode(),
        TABLE.replace("0.9", "O.9"),
        TABLE.replace("\n2,", "\n5,"),
        TABLE.replace("epoch", "eqoch"),
        TABLE + "3,0.1,0.1,1,7\n",
        TABLE.replace("0.9", '"0.9'),
    ],
)
def test_a_damaged_table_is_named(tmp_path, damaged):
    with pytest.raises(InputError) as error:
        history(tmp_path, damaged, 1)
    assert error.value.path == tmp_path / "losses.csv" and "damaged" in error.value.problem
