"""Tiny random vision models with 36 patches: enough tokens for schedules of several stages."""

from typing import Any

import torch
import transformers as hf
from families import IMAGE_ID, make

SIDE = 24


@torch.no_grad()
def vit(seed: int = 0) -> Any:
    """A ViT that classifies images of 24 x 24 pixels in 36 patches."""
    config = make("vit").config
    config.image_size = SIDE
    return _filled(hf.ViTForImageClassification(config), seed)


@torch.no_grad()
def llava(seed: int = 0) -> Any:
    """A LLaVA whose images are 36 tokens each."""
    config = make("llava").config
    config.vision_config.image_size, config.image_seq_length = SIDE, 36
    config.text_config.max_position_embeddings = 256
    return _filled(hf.LlavaForConditionalGeneration(config), seed)


def prompt(batch: int, words: int, images: int = 1, between: int = 1, seed: int = 1) -> dict[str, torch.Tensor]:
    """`between` words, an image, and so on, then `words` words; batch rows."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(8, 96, (batch, images * between + words), generator=generator)
    image = torch.full((batch, 36), IMAGE_ID)
    pieces = [piece for at in range(images) for piece in (text[:, at * between : (at + 1) * between], image)]
    ids = torch.cat([*pieces, text[:, images * between :]], dim=1)
    pixels = torch.randn(batch * images, 3, SIDE, SIDE, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def _filled(model: Any, seed: int) -> Any:
    """Weights large enough that attention is far from even, so that rankings are clear."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0.0, 0.15, generator=generator)
        else:
            parameter.uniform_(0.3, 1.1, generator=generator)
    model.tie_weights()
    return model.eval()
