"""Names of the ways to get proposals, for command lines; nothing heavy is imported here."""

GENERATE = "generate"
FORMATS = ("auto", "npz", "mat", "prm", "rle")
