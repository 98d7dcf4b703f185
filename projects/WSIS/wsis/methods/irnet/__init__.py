"""IRNet (Ahn, Cho, Kwak, CVPR 2019): instance masks from image tags by inter-pixel relations.

"Spec 4" in a comment of this folder is section 4 of docs/methods/irnet.md.
"""
