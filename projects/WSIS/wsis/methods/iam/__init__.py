"""IAM: instance activation maps (Zhu et al., CVPR 2019)."""
