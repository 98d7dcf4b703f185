"""BoxCaseg (CVPR 2021): from boxes and salient objects to instance masks.

"Spec 4" in a comment of this folder is section 4 of docs/methods/boxcaseg.md.
"""
