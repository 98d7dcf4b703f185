#!/usr/bin/env python
"""Runs a WSIS pipeline; ``python train_net.py --help`` explains."""

import sys

from wsis.cli import main

if __name__ == "__main__":
    sys.exit(main())
