"""Tensors or arrays in, tensors or arrays out: no config, no files, no data set names."""
