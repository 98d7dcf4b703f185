"""One fair evaluator for every method, with named protocols."""
