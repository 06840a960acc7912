"""Entry point of ``python -m engine.published``; ``--help`` lists the options."""

from data.common.process import set_up_process

set_up_process()

import sys

from engine.published.command import main

if __name__ == "__main__":
    sys.exit(main())
