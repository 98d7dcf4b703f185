"""Prompted masks: boxes, points or class peaks as prompts of a Segment Anything model."""
