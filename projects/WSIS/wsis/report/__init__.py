"""HTML reports and pictures of runs."""
