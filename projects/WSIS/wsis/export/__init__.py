"""Pseudo labels and predictions out: to annotation tools, to other trainers."""
