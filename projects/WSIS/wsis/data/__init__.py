"""Data sets, mappers, pseudo labels and artifacts: the only place that knows file formats."""
