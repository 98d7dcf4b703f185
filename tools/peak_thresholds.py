#!/usr/bin/env python
"""Shows how high peaks are, for MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD; ``--help`` explains."""

import sys

from wsis.report.peak_thresholds import main

if __name__ == "__main__":
    sys.exit(main())
