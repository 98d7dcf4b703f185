"""BoxInst (Tian et al., CVPR 2021) for Mask R-CNN: instance masks from boxes alone.

"Spec 2" in a comment of this folder is section 2 of docs/methods/boxinst.md.
"""
