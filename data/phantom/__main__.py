"""Entry point of ``python -m data.phantom``; ``--help`` lists the options."""

from data.common.process import set_up_process

set_up_process()

import sys

from data.phantom.command import main

if __name__ == "__main__":
    sys.exit(main())
