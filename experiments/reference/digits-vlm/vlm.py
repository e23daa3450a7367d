"""The model `digits-vlm` untrained, and how it is asked: one image, one question, greedily."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from grids import SIZE
from questions import IDS, WORDS
from tower import build_tower_config
from transformers import CLIPImageProcessorPil, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from turns import IMAGE_TOKENS


@dataclass(frozen=True)
class Shape:
    """Sizes of the tower and of the decoder."""

    tower_hidden: int = 64
    tower_layers: int = 3
    tower_intermediate: int = 192
    hidden: int = 128
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    context: int = 1024


def build(shape: Shape, seed: int) -> LlavaForConditionalGeneration:
    """Untrained, fp32."""
    torch.manual_seed(seed)
    decoder = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.context,
        initializer_range=0.04,
        bos_token_id=IDS["<bos>"],
        eos_token_id=IDS["<eos>"],
        pad_token_id=IDS["<pad>"],
    )
    config = LlavaConfig(
        vision_config=build_tower_config(shape.tower_hidden, shape.tower_layers, shape.tower_intermediate),
        text_config=decoder,
        image_token_index=IDS["<image>"],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        bos_token_id=IDS["<bos>"],
        eos_token_id=IDS["<eos>"],
        pad_token_id=IDS["<pad>"],
    )
    return LlavaForConditionalGeneration(config)


def build_image_processor() -> CLIPImageProcessorPil:
    """What `grids.convert_to_input` does to a file."""
    size, half = {"height": SIZE, "width": SIZE}, [0.5] * 3
    return CLIPImageProcessorPil(
        size=size, resample=2, do_center_crop=False, crop_size=size, image_mean=half, image_std=half
    )


@torch.no_grad()
def generate_answers(model: LlavaForConditionalGeneration, pixels: torch.Tensor, questions: Sequence[str]) -> list[str]:
    """The answer to one question about each of (n, 3, 32, 32); "" where the first word said is not followed by `<eos>`.

    Questions of equal length go together, as single questions, with all image tokens.
    """
    answers = [""] * len(questions)
    groups: dict[int, list[int]] = {}
    for position, question in enumerate(questions):
        groups.setdefault(len(question.split()), []).append(position)
    for positions in groups.values():
        for start in range(0, len(positions), 64):
            at = positions[start : start + 64]
            rows = [[IDS[word] for word in questions[position].split()] for position in at]
            before = torch.tensor([IDS["<bos>"]] + [IDS["<image>"]] * IMAGE_TOKENS).expand(len(at), -1)
            ids = torch.cat([before, torch.tensor(rows)], dim=1)
            seen = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels[at]}
            made = model.generate(**seen, max_new_tokens=2, do_sample=False)[:, ids.shape[1] :]
            for position, words in zip(at, made.tolist(), strict=True):
                answers[position] = WORDS[words[0]] if words[1:] == [IDS["<eos>"]] else ""
    return answers
