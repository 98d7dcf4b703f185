"""PRM (Zhou et al., CVPR 2018): instance masks from image tags by peak response maps."""
