#!/usr/bin/env python
"""Writes the HTML report of a run; ``python tools/report.py --help`` explains."""

import sys

from wsis.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
