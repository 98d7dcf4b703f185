"""Tiny random Segment Anything models, saved as transformers saves real ones."""

from __future__ import annotations

from pathlib import Path

import torch

_DECODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 32}
_DECODER |= {"iou_head_depth": 2, "iou_head_hidden_dim": 16}
_PROMPTS = {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4}


def _vit(layers: int) -> dict:
    config = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 4}
    config |= {"global_attn_indexes": list(range(layers)), "mlp_dim": 32, "num_pos_feats": 8}
    prompts = _PROMPTS | {"patch_size": 8, "image_embedding_size": 8}
    return {"vision_config": config, "prompt_encoder_config": prompts}


def _sam():
    from transformers import SamConfig, SamModel, SamProcessor

    config = SamConfig(**_vit(1), mask_decoder_config=_DECODER)
    return SamModel(config), SamProcessor(_vit_processor())


def _vit_processor():
    from transformers import SamImageProcessor

    sides, small = {"height": 64, "width": 64}, {"height": 32, "width": 32}
    return SamImageProcessor(
        size={"longest_edge": 64},
        pad_size=sides,
        mask_size={"longest_edge": 32},
        mask_pad_size=small,
    )


def _hq_sam():
    from transformers import SamHQConfig, SamHQModel, SamHQProcessor

    config = SamHQConfig(**_vit(2), mask_decoder_config=_DECODER | {"vit_dim": 16})
    return SamHQModel(config), SamHQProcessor(_vit_processor())


def _sam2():
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    trunk = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [64, 64]}
    trunk |= {"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    trunk |= {"window_size_per_stage": [4, 4, 2, 2], "global_attention_blocks": [3]}
    trunk |= {"window_positional_embedding_background_size": [4, 4]}
    vision = {"backbone_config": trunk, "backbone_channel_list": [64, 32, 16, 8]}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16}
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=_PROMPTS | {"patch_size": 16},
        mask_decoder_config=_DECODER,
    )
    size = {"height": 64, "width": 64}
    image_processor = Sam2ImageProcessor(size=size, mask_size={"height": 16, "width": 16})
    return Sam2Model(config), Sam2Processor(image_processor)


KINDS = {"sam": _sam, "sam_hq": _hq_sam, "sam2": _sam2}


def save_tiny(folder: Path, kind: str = "sam", seed: int = 0) -> Path:
    """Save a random model and its processor into ``folder``, which is returned.

    Its weights are large enough that the masks of prompts differ.
    """
    import transformers

    bars = transformers.utils.logging
    bars.disable_progress_bar()
    torch.manual_seed(seed)
    network, processor = KINDS[kind]()
    for value in network.parameters():
        if value.dim() > 1:  # embeddings and layers, not norms
            torch.nn.init.normal_(value, std=3 / value[0].numel() ** 0.5)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    bars.enable_progress_bar()
    return folder
