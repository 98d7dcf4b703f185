"""The rule of peak back-propagation as autograd sees it: the oracle of the tests."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class PeakRule(TorchFunctionMode):
    """The rule as autograd sees it: slow, plain, and for any network that autograd knows.

    ``with PeakRule(): maps = network(images)`` gives the ordinary maps; their gradients at the
    images, also batched ones (``is_grads_batched``), are those of the rule. Weights get none. The
    offset is the minimum over the whole batch.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace two-dimensional convolutions."""
        kwargs = kwargs or {}
        if function is not F.conv2d:
            return function(*args, **kwargs)
        image, weight = args[:2] if len(args) > 1 else (args[0], kwargs.pop("weight"))
        with torch.no_grad():
            response = function(image, weight, *args[2:], **kwargs)
        shifted = (image - image.detach().amin()).detach()
        positive = weight.detach().clamp(min=0)
        rest = {**dict(zip(("bias", "stride", "padding"), args[2:5], strict=False)), **kwargs}
        rest |= dict(zip(("dilation", "groups"), args[5:7], strict=False))
        rest.pop("bias", None)
        normaliser = function(shifted, positive, **rest)
        share = (normaliser >= 1e-10) / (normaliser.abs() + 1e-10)
        spread = share * function(image * shifted, positive, **rest)
        return response + (spread - spread.detach())
