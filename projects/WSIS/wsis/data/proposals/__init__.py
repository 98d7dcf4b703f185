"""Segment proposals of images: one interface, whatever made them and whatever file they lie in."""
