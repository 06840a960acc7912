"""Entry point of ``python -m data.contact_sheet``; ``--help`` lists the options."""

from data.common.process import set_up_process

set_up_process()

import sys

from data.contact_sheet.command import main

if __name__ == "__main__":
    sys.exit(main())
