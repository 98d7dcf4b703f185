"""A Segment Anything model of Hugging Face's transformers: how it is loaded, and how it is asked.

It takes prompts of one image of H x W pixels: boxes (K, 4), x0, y0, x1, y1, or points (K, 2), x, y.
All that transformers has for mask generation is alike here: SAM, SAM 2, HQ-SAM, EdgeTAM, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsis.data.model_folders import find_model
from wsis.errors import DataError, first_line, out_of_memory

# No side of an image is a smaller share of the other: the processor would make it 0 pixels.
_LONGEST_TO_SHORTEST = 32
_SIZES = ("original_sizes", "reshaped_input_sizes")  # of the processor: what its masks need


class SegmentAnything(nn.Module):
    """A network with the processor that prepares its input and enlarges its masks.

    Args:
        network: of transformers, with ``get_image_embeddings``.
        processor: the one that belongs to it.
    """

    def __init__(self, network: nn.Module, processor: Any) -> None:
        super().__init__()
        self.network, self.processor = network, processor

    @torch.no_grad()
    def candidates(
        self, image: Tensor, kind: str, prompts: Tensor, *, at_once: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The masks that the network proposes for each prompt, in order.

        The image is embedded once; the decoder takes ``at_once`` prompts at a time; masks are
        enlarged prompt by prompt, since they take hundreds of bytes a pixel.

        Args:
            image: (3, H, W) uint8, RGB.
            kind: "boxes" or "points".
            prompts: (K, 4) or (K, 2) floating, K at least 1.
            at_once: how many at a time.

        Yields:
            per prompt masks (M, H, W) bool and scores (M,): the IoU that the network expects.
        """
        height, width = image.shape[-2:]
        least = -(-max(height, width) // _LONGEST_TO_SHORTEST)
        padding = (0, max(least - width, 0), 0, max(least - height, 0))
        pixels = functional.pad(image, padding).permute(1, 2, 0).cpu().numpy()
        given = {"input_boxes": [prompts.tolist()]}
        if kind == "points":
            given = {
                "input_points": [[[point] for point in prompts.tolist()]],
                "input_labels": [[[1]] * len(prompts)],
            }
        inputs = self.processor(
            images=[pixels], return_tensors="pt", input_data_format="channels_last", **given
        )
        device = next(self.network.parameters()).device
        found: Any = self.network.get_image_embeddings(inputs["pixel_values"].to(device))
        embedded = {"image_embeddings": found}
        if isinstance(found, tuple):  # HQ-SAM's
            names = ("image_embeddings", "intermediate_embeddings")
            embedded = dict(zip(names, found, strict=True))
        sizes = [inputs[name] for name in _SIZES if name in inputs]
        for start in range(0, len(prompts), at_once):
            some = {k: inputs[k][:, start : start + at_once].to(device) for k in given}
            output = self.network(**embedded, **some, multimask_output=True)
            for logits, scores in zip(output.pred_masks[0], output.iou_scores[0], strict=True):
                (masks,) = self.processor.post_process_masks([logits[None]], *sizes)
                yield masks[0, :, :height, :width], scores


def _quieten(output: Any) -> None:
    """No bars, and no reports of many lines: what is wrong with a model is told in a sentence."""
    output.disable_progress_bar()
    output.set_verbosity_error()


def load_segment_anything(name: str) -> SegmentAnything:
    """The model of a folder, or of a name on the hub that was downloaded before, in float32.

    Nothing is downloaded, and no code of the folder is run: weights are read from safetensors.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        DataError: there is no such folder, or it does not hold a whole model of this kind.
    """
    import transformers  # seconds, and an optional package

    folder = find_model(name)
    _quieten(transformers.utils.logging)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # "sdpa" in place of what the config says, which may be code on the hub
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        config._attn_implementation = "sdpa"
        network, found = transformers.AutoModelForMaskGeneration.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are told below
            dtype=torch.float32,
            output_loading_info=True,
            **local,
        )
        # The network's own: a folder of SAM 2 names the processor of its videos.
        processor = transformers.PROCESSOR_MAPPING[network.config_class]
        processor = processor.from_pretrained(folder, **local)
    except Exception as error:  # config, processor and weights can be damaged in any way
        if out_of_memory(error):
            raise
        raise DataError(
            f"{folder} holds no Segment Anything model that transformers "
            f"{transformers.__version__} can read ({first_line(error)}); download it again, or "
            "name another (MODEL.PROMPTED_MASKS.MODEL)"
        ) from error
    if lost := sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]):
        raise DataError(
            f"{folder} lacks {len(lost)} of the model's weights, or has them in another shape, "
            f"first {lost[0]}; download it again"
        )
    return SegmentAnything(network.eval(), processor)
