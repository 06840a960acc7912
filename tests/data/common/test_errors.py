"""Errors that a user can put right end a command with one line; all others keep their traceback."""

import errno
import os
import pickle
import subprocess
import sys

import pytest

from data.common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError, command
from data.common.files import REPOSITORY, replacing


def test_an_error_prints_as_one_line_that_ends_in_the_remedy_or_its_command():
    assert str(InputError("scan.nii", "the file is empty", "download it again")) == (
        "scan.nii: the file is empty. Download it again."
    )
    assert str(InputError("scan.nii", "a pointer", "run this", command="git lfs pull")) == (
        "scan.nii: a pointer. Run this: git lfs pull"
    )


def test_an_error_is_one_line_even_if_a_damaged_file_has_line_breaks_in_its_names():
    assert str(InputError("splits.json", "no such case, two\nlines", "prepare it")).count("\n") == 0


def test_an_error_keeps_its_fields_on_its_way_from_a_worker_process(tmp_path):
    error = pickle.loads(pickle.dumps(InputError(tmp_path, "is full", "run this", command="rm x")))
    assert (error.path, error.problem, error.remedy, error.command) == (tmp_path, "is full", "run this", "rm x")


@command
def fail(error: BaseException) -> None:
    raise error


def os_error(number: int, path: str | None = "out/mask.nii.gz") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_asks_for_space(capsys, number):
    assert fail(os_error(number)) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("error: out/mask.nii.gz: ") and "Free some space" in message and message.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR])
def test_a_folder_that_cannot_be_used_asks_for_another_one(capsys, number):
    assert fail(os_error(number)) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "hoose another folder" in message and "space" not in message and message.count("\n") == 1


def test_a_file_where_a_folder_is_needed_is_named(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")

    @command
    def write(path):
        with replacing(path):
            pass

    assert write(tmp_path / "out" / "mask.nii.gz") == EXIT_BAD_INPUT
    assert write(tmp_path / "out" / "deeper" / "mask.nii.gz") == EXIT_BAD_INPUT
    direct, deeper = capsys.readouterr().err.splitlines()
    for line in (direct, deeper):
        assert line == f"error: {tmp_path / 'out'}: it is a file, not a folder. Choose another folder."


def test_an_error_of_the_file_system_without_a_path_is_of_the_output(capsys):
    assert fail(os_error(errno.ENOSPC, None)) == EXIT_BAD_INPUT
    assert "error: the output folder: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a fault"), FileNotFoundError(errno.ENOENT, "no such file", "x")])
def test_a_fault_of_the_program_is_raised(error):
    with pytest.raises(type(error)):
        fail(error)


def test_ctrl_c_has_its_own_exit_code(capsys):
    assert fail(KeyboardInterrupt()) == EXIT_INTERRUPTED == 130
    assert "Run the same command again" in capsys.readouterr().err


def test_the_exit_code_of_a_command_is_returned():
    assert command(lambda: None)() == 0 and command(lambda: 2)() == EXIT_BAD_INPUT == 2


def test_ctrl_c_while_modules_are_imported_prints_no_traceback():
    def run(error: str) -> subprocess.CompletedProcess:
        setup = "from data.common.process import set_up_process; set_up_process()"
        code = f"{setup}; import sys; assert not {{'numpy', 'torch'}} & set(sys.modules); raise {error}"
        arguments = [sys.executable, "-c", code]
        return subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, encoding="utf-8")

    interrupted = run("KeyboardInterrupt")
    assert interrupted.stderr == "\ninterrupted\n" and interrupted.returncode in (-2, 130)
    assert "Traceback" in run("RuntimeError").stderr
