"""Segment proposals of images: one interface for all generators and file formats.

Nothing heavy is imported here, since command lines import the names.
"""

GENERATE = "generate"
FORMATS = ("auto", "npz", "mat", "prm", "rle")
