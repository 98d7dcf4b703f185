"""One folder per published method; they never import each other."""
