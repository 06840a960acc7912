"""Segment the pancreas and its tumours in new scans; --help lists the options."""

import sys

from data.common.process import set_up_process

set_up_process(computes=True)

from engine.infer.predict import main

if __name__ == "__main__":
    sys.exit(main())
