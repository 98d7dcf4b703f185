"""IRNet (Ahn, Cho, Kwak, CVPR 2019): instance masks from image tags by inter-pixel relations."""
