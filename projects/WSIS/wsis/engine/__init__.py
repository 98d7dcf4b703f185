"""Runs stages: the only place that knows order, processes and folders."""
