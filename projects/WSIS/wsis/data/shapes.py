"""x"""

SHAPES_CLASSES = ("a",)
