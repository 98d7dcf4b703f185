#!/usr/bin/env python
"""Shows how high peaks are, for MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD; ``--help`` explains."""

import sys

from wsis.report.cli import peak_thresholds

if __name__ == "__main__":
    sys.exit(peak_thresholds())
