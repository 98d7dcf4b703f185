"""Imported first, so that detectron2's stand-ins are in place before any test imports it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at once share two cores

import torch
import wsis  # noqa: F401

torch.set_num_threads(1)
