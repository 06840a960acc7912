"""Entry point of ``python -m engine.export``; ``--help`` lists the options."""

from data.common.process import set_up_process

set_up_process(computes=True)

import sys

from engine.export.command import main

if __name__ == "__main__":
    sys.exit(main())
