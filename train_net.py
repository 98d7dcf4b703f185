#!/usr/bin/env python
"""Runs a WSIS pipeline: ``python train_net.py --config-file configs/irnet_voc.yaml --num-gpus 4``."""

import sys

from wsis.engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
