"""A new scan in, its pancreas and tumour out: python predict.py SCAN... -o OUT; --help lists the options."""

import sys

from engine.predict import main

if __name__ == "__main__":
    sys.exit(main())
