"""Random walker (Grady, PAMI 2006): masks from a point in each object, without learning.

What it does, and its figures, are in docs/methods/random_walker.md.
"""
