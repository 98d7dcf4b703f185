"""The whole network on its backbone (cim_full_vgg16.npz)."""

import pytest

from tests.golden.cim_full import check_network


@pytest.mark.slow
def test_scores_losses_and_gradients(golden):
    check_network(golden, "cim_full_vgg16")
