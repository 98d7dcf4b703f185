#!/usr/bin/env python
"""Draws what a trained network finds in your photographs; ``tools/demo.py --help`` explains."""

import sys

from wsis.report.cli import demo

if __name__ == "__main__":
    sys.exit(demo())
