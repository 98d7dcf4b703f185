"""IAM: instance activation maps (Zhu et al., CVPR 2019).

"Spec 4" in a comment of this folder is section 4 of docs/methods/iam.md.
"""
