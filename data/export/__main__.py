"""Entry point of ``python -m data.export``; ``--help`` lists the options."""

from data.common.process import set_up_process

set_up_process()

import sys

from data.export.command import main

if __name__ == "__main__":
    sys.exit(main())
