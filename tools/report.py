#!/usr/bin/env python
"""Writes the HTML report of a run; ``python tools/report.py --help`` explains."""

import sys

from wsis.report.cli import report

if __name__ == "__main__":
    sys.exit(report())
