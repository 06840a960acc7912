"""Evaluate the stage tumor fine; --help lists the options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.common.process import set_up_process

set_up_process(computes=True)

from engine.evaluate.stage import main

if __name__ == "__main__":
    sys.exit(main("tumor_fine"))
