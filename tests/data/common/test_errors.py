"""Ctrl-C before a command has begun is one line too."""

import subprocess
import sys

from data.common.files import REPOSITORY


def test_ctrl_c_while_modules_are_imported_prints_no_traceback():
    def run(error: str) -> subprocess.CompletedProcess:
        setup = "from data.common.process import set_up_process; set_up_process()"
        code = f"{setup}; import sys; assert not {{'numpy', 'torch'}} & set(sys.modules); raise {error}"
        return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)

    interrupted = run("KeyboardInterrupt")
    assert interrupted.stderr == "\ninterrupted\n" and interrupted.returncode in (-2, 130)
    assert "Traceback" in run("RuntimeError").stderr
