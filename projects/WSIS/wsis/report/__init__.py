"""The HTML report of a run, and pictures of data sets, pseudo labels and predictions."""
