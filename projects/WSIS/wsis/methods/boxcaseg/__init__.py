"""BoxCaseg (CVPR 2021): from boxes and salient objects to instance masks."""
