"""Tensors in, tensors out: no config, no files, no data set names."""
