"""Entry point of ``python -m pancreas_dual_task``, the same as the command ``pancreas-dual-task``."""

import sys

from pancreas_dual_task.command import main

if __name__ == "__main__":
    sys.exit(main())
