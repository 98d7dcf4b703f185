#!/usr/bin/env python
"""Draws data sets, pseudo labels and predictions; ``tools/visualize.py --help`` explains."""

import sys

from wsis.report.cli import visualize

if __name__ == "__main__":
    sys.exit(visualize())
