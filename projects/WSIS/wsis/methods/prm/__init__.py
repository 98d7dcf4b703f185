"""PRM (Zhou et al., CVPR 2018): instance masks from image tags by peak response maps.

"Spec 4" in a comment of this folder is section 4 of docs/methods/prm.md.
"""
