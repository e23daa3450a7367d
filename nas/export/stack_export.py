"""The file of one stack of an encoder-decoder: the states of the encoder, or the decoder's logits given those.

Two files together are the model: whoever runs them gives the states of the encoder to the decoder at every step.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from pruning.anatomy.encoder_decoder import count_words, find_part
from pruning.anatomy.part import Part, get_part

STATES, SOURCE_MASK = "encoder_hidden_states", "encoder_attention_mask"
FEATURES = "input_features"
_LONGER = 3  # by so many tokens the traced source is longer, as the two lengths have nothing to do with each other


def list_stack_inputs(model: Any) -> tuple[str, ...]:
    """The inputs of the file of the stack that is pruned, in order; sound has no padding."""
    sound = model.main_input_name == FEATURES
    if get_part(model) is Part.ENCODER:
        return (FEATURES,) if sound else ("input_ids", "attention_mask")
    return ("input_ids", STATES) if sound else ("input_ids", STATES, SOURCE_MASK)


def list_stack_outputs(model: Any) -> tuple[str, ...]:
    """What the file of the stack that is pruned gives."""
    return ("last_hidden_state",) if get_part(model) is Part.ENCODER else ("logits",)


def make_stack_inputs(
    model: Any, batch: int, sequence: int, generator: torch.Generator, traced: bool = False
) -> dict[str, Tensor]:
    """Random inputs of a stack: `sequence` tokens, for a decoder also the states of a source of as many.

    Args:
        traced: the source has another length.
    """
    config, part = model.config, get_part(model)
    assert part is not None, "only an encoder-decoder has two stacks"
    encoder: Any = find_part(model, Part.ENCODER)
    width = int(encoder.config.hidden_size)
    frames = 2 * config.max_source_positions if model.main_input_name == FEATURES else 0
    source = frames // 2 or sequence + _LONGER * traced
    values = {
        "input_ids": torch.randint(3, count_words(model, part), (batch, sequence), generator=generator),
        "attention_mask": torch.ones(batch, sequence, dtype=torch.long),
        STATES: torch.randn(batch, source, width, generator=generator),
        SOURCE_MASK: torch.ones(batch, source, dtype=torch.long),
    }
    if frames:
        values[FEATURES] = torch.randn(batch, config.num_mel_bins, frames, generator=generator)
    return {name: values[name] for name in list_stack_inputs(model)}


def list_stack_axes(model: Any) -> tuple[dict[int, Any], ...]:
    """The dynamic axes of each input: the batch, the tokens, and those of a source whose number is not fixed."""
    batch, sequence, source = (torch.export.Dim(name) for name in ("batch", "sequence", "source"))
    fixed = model.main_input_name == FEATURES
    axes = {FEATURES: {0: batch}, STATES: {0: batch} if fixed else {0: batch, 1: source}}
    axes[SOURCE_MASK] = axes[STATES]
    return tuple(axes.get(name, {0: batch, 1: sequence}) for name in list_stack_inputs(model))


@contextlib.contextmanager
def trace_biases_as_products(model: Any) -> Iterator[None]:
    """Trace attention that adds a bias to its scores, as T5's, as plain products.

    The fused operator is taken apart into values of other strides than the trace was made with, which then fails.
    """
    used = getattr(model.config, "_attn_implementation", None)
    biased = any("position_bias" in inspect.signature(module.forward).parameters for module in model.modules())
    if not biased or used in (None, "eager"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(used)


def run_stack(model: Any, given: Mapping[str, Tensor]) -> Tensor:
    """The states that leave the encoder (batch, tokens, d), or the decoder's logits (batch, tokens, vocabulary)."""
    if get_part(model) is Part.ENCODER:
        states: Tensor = model.get_encoder()(**given)[0]
        return states
    masks = {"attention_mask": given[SOURCE_MASK]} if SOURCE_MASK in given else {}
    encoded = BaseModelOutput(last_hidden_state=given[STATES])
    logits: Tensor = model(
        encoder_outputs=encoded, decoder_input_ids=given["input_ids"], use_cache=False, **masks
    ).logits
    return logits
