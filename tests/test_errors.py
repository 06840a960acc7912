"""Ctrl-C before a command has begun is one line too."""

import subprocess
import sys

import pytest

from data.store import REPOSITORY


@pytest.mark.parametrize("package", ["data", "engine"])
def test_ctrl_c_while_modules_are_imported_prints_no_traceback(package):
    def run(error: str) -> subprocess.CompletedProcess:
        code = f"import {package}, sys; assert not {{'numpy', 'torch'}} & set(sys.modules); raise {error}"
        return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)

    interrupted = run("KeyboardInterrupt")
    assert interrupted.stderr == "\ninterrupted\n" and interrupted.returncode in (-2, 130)
    assert "Traceback" in run("RuntimeError").stderr
