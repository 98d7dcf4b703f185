"""Segment proposals of images: one interface, whatever made them and whatever file they lie in.

Nothing heavy is imported here: command lines read the names.
"""

GENERATE = "generate"
FORMATS = ("auto", "npz", "mat", "prm", "rle")
