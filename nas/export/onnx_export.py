"""Export to ONNX: dynamic batch and sequence, native attention operators, positions as an input.

One file per phase: `forward` without a cache, `prefill` and `decode` as `cached_export` has them.
"""

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_models.workload import Phase, Workload
from nas.export.cached_export import (
    Tracing,
    build_cached_tracing,
    decode_inputs,
    read_cache_layers,
    read_lengths_from_mask,
    stop_counting_cache,
)
from nas.export.exporter_log import capture_output, find_reason, keep_log
from nas.export.finishing import finish_file
from nas.export.images import count_image_tokens, place_images, put_image
from nas.export.lazy_weights import LazyWeights
from nas.export.module_graph import SCOPES
from nas.export.positions import trace_frequencies_by_length
from nas.export.quantised_graph import check_type, quantise_file
from nas.export.stack_export import (
    list_stack_axes,
    list_stack_inputs,
    list_stack_outputs,
    make_stack_inputs,
    run_stack,
    trace_biases_as_products,
)
from pruning.anatomy.language_model import find_image_config, find_language_config
from pruning.anatomy.part import PIXELS, get_main_input, is_encoder_decoder, prunes_vision
from pruning.anatomy.vision import run_tower
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.reduction.inspection import count_always_kept, count_words_to_trace
from pruning.surgery.quantised_linear import QuantisedLinear, bypass_rounding
from search_spaces.errors import ExportError, MeasurementError

ONNX_RUNTIME_OPSET = 23  # native Attention, RMSNormalization and RotaryEmbedding
TENSORRT_OPSET = 18  # TensorRT takes attention as plain operators
_OFFSET = 2  # of learned positions, which some count from two on
TRACE_SHAPE = (2, 7)  # every dynamic axis is traced at 2 or more: a size of 1 would be baked in
FEATURES = "image_features"  # of a vision tower: what the language model is given in the places of images
VECTORS = {"text_projection": "text_embeds", "visual_projection": "image_embeds"}  # what towers of CLIP give, by module
EMBEDDING = "sentence_embedding"  # the output's name, as other exporters have it
LARGEST_FOLDED = 512 * 512  # weights; of more that are read in two places, no turned copy is stored
LARGEST_INLINE = 1_800_000_000  # bytes of weights inside one file


class Exportable(nn.Module):
    """A model as a function of tensors only, without a cache; `list_output_names` names what it gives."""

    def __init__(self, model: Any) -> None:
        """`model` is a Hugging Face transformer, pruned or not."""
        super().__init__()
        self.model = model
        self.names = list_input_names(model)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The logits, or the last hidden state and, where the model says how, the embedding made of it."""
        given = dict(zip(self.names, tensors, strict=True))
        if is_encoder_decoder(self.model):
            return (run_stack(self.model, given),)
        if prunes_vision(self.model):
            features = run_tower(self.model, given)
            return (features.reshape(given[PIXELS].shape[0], -1, features.shape[-1]),)
        fixed = {"use_cache": False} if "position_ids" in self.names else {}
        output: Tensor = self.model(**given, **fixed)[0]
        embedding = read_sentence_embedding(self.model)
        return (output,) if embedding is None else (output, embedding(output, given["attention_mask"]))


def list_input_names(model: Any) -> tuple[str, ...]:
    """The inputs of the exported file, in order; of a model of several stacks, of the one that is pruned."""
    if is_encoder_decoder(model):
        return list_stack_inputs(model)
    if get_main_input(model) == PIXELS:
        return (PIXELS,)
    parameters = inspect.signature(model.forward).parameters
    # GPT-NeoX decoders say `is_decoder: false` as encoders do; only they can generate.
    decodes = model.can_generate() or getattr(model.config, "is_decoder", True) is not False
    is_decoder = decodes and {"past_key_values", "position_ids"} <= set(parameters)
    images = (PIXELS,) if count_image_tokens(model) else ()
    return (*images, "input_ids", "attention_mask", *(("position_ids",) if is_decoder else ()))


def list_output_names(model: Any) -> tuple[str, ...]:
    """`logits` for a model with a head, else `last_hidden_state`, and `sentence_embedding` where it makes one; of a
    vision tower with its projector `image_features`."""
    if is_encoder_decoder(model):
        return list_stack_outputs(model)
    if prunes_vision(model):
        return (FEATURES,)
    headless = getattr(model, "base_model", model) is model
    embeds = read_sentence_embedding(model) is not None
    vectors = next((name for module, name in VECTORS.items() if hasattr(model, module)), None)
    if vectors is not None:
        return (vectors,)
    return ("last_hidden_state" if headless else "logits", *((EMBEDDING,) if embeds else ()))


def make_example_inputs(model: Any, batch: int, sequence: int, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a model: ids, mask and positions (batch, sequence), or pixels (batch, c, h, w).

    For a vision-language model both: one image in every prompt, whose tokens count among the `sequence`.

    Raises:
        ExportError: the image's tokens leave no room for a word.
    """
    generator = torch.Generator().manual_seed(seed)
    if is_encoder_decoder(model):
        return make_stack_inputs(model, batch, sequence, generator)
    config = find_language_config(model)
    if get_main_input(model) == PIXELS:
        config = find_image_config(model)
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {PIXELS: torch.randn(batch, getattr(config, "num_channels", 3), height, width, generator=generator)}
    values = {
        "input_ids": torch.randint(3, config.vocab_size, (batch, sequence), generator=generator),
        "attention_mask": torch.ones(batch, sequence, dtype=torch.long),
        "position_ids": torch.arange(sequence).expand(batch, sequence).contiguous(),
    }
    tokens = count_image_tokens(model)
    if tokens:
        values |= put_image(model, values["input_ids"], tokens, generator)
    return {name: values[name] for name in list_input_names(model)}


def make_workload_inputs(model: Any, workload: Workload, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays that the file of the workload's phase is measured with, by input name.

    `decode` is given random keys and values of `workload.past` tokens.

    Raises:
        ExportError: the model has no such phase, or the workload is too short for an image.
    """
    layers = () if workload.phase is Phase.FORWARD else read_cache_layers(model, workload.phase)
    tensors = make_example_inputs(model, workload.batch, workload.past + workload.sequence, seed)
    if workload.phase is Phase.DECODE:
        tensors = decode_inputs(model, tensors, layers, seed)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def export_onnx(
    model: Any,
    path: Path,
    opset: int = ONNX_RUNTIME_OPSET,
    phase: Phase = Phase.FORWARD,
    traced: dict[Phase, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    whole_cache: bool = False,
) -> Path:
    """Write one phase of `model` as an ONNX file with dynamic batch (and sequence or past for text).

    Linear modules of fewer bits become the products of the runtime of their format.

    Args:
        model: on the CPU.
        path: the file; weights over 1.8 GB go into a second file beside it.
        opset: 23 for ONNX Runtime, 18 for TensorRT.
        traced: of this model and type, by phase: what an export for another opset traced is not traced again.
        dtype: of the file's weights and arithmetic: float32, or float16 whatever the model's weights have.
        whole_cache: keep all keys and values of an attention with a sliding window, for programs whose caches are all
            of one length; what it sees is the same.

    Raises:
        ExportError: when the model cannot be traced, has no such phase, or has weights of fewer bits in a format that
            the type has no products for; what the exporter said is in a file then.
    """
    check_type(model, dtype)
    quantised = any(isinstance(part, QuantisedLinear) for part in model.modules())
    known = {} if traced is None else traced
    program, lazy = known.get(phase) or (None, LazyWeights.of(model, dtype))
    original, model = model, lazy.model
    tracing = _build_tracing(model, phase, whole_cache)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with capture_output() as output, _change_for_trace(model):
            written = torch.onnx.export(
                program or tracing.module.eval(),
                tuple(tracing.inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(tracing.inputs),
                output_names=list(tracing.outputs),
                dynamic_shapes=(tracing.axes,),
                verbose=False,
                optimize=False,
            )
            assert written is not None
            lazy.put_back(written.model.graph)
            written.optimize()
            if opset == ONNX_RUNTIME_OPSET:  # its operators are still whole, and are taken apart for the other form
                known[phase] = written.exported_program, lazy
            _keep_scopes_only(written)
            read_lengths_from_mask(written.model.graph, tracing.layers)
            written.save(str(path), external_data=weights > LARGEST_INLINE)
            finish_file(path)
            if quantised:
                quantise_file(path, original, f"{path.name}.data" if weights > LARGEST_INLINE else None)
    except Exception as error:  # the exporter raises many unrelated classes
        text = output.getvalue() + "".join(traceback.format_exception(error))
        log = keep_log(f"export-{type(model).__name__}-{phase}-{opset}", text)
        raise ExportError(
            f"{phase} of {type(model).__name__} cannot be exported to ONNX opset {opset}: {find_reason(error)}; "
            f"what the exporter said is in {log}"
        ) from error
    return path


def export_for_onnx_runtime(
    model: Any,
    path: Path,
    check: Callable[[Any, Path, Phase], float],
    phase: Phase = Phase.FORWARD,
    traced: dict[Phase, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[int, str]:
    """Export one phase with native operators where ONNX Runtime runs them right, else with plain ones.

    Args:
        check: raises ExportError when the file does not compute what the model computes.
        traced, dtype: as `export_onnx` has them.

    Returns:
        The opset, and the reason for it where it is not the first choice (empty otherwise).

    Raises:
        ExportError: when neither form agrees with the model, or it has no such phase.
    """
    try:
        check(model, export_onnx(model, path, ONNX_RUNTIME_OPSET, phase, traced, dtype), phase)
    except (ExportError, MeasurementError) as error:
        check(model, export_onnx(model, path, TENSORRT_OPSET, phase, None, dtype), phase)
        return TENSORRT_OPSET, f"opset {ONNX_RUNTIME_OPSET} was not usable: {error}"
    return ONNX_RUNTIME_OPSET, ""


@contextlib.contextmanager
def _change_for_trace(model: Any) -> Iterator[None]:
    """A model whose parts compute in operators that a file can have, until it is left."""
    with (
        bypass_rounding(model),
        trace_experts_as_products(model),
        stop_counting_cache(model),
        place_images(model),
        trace_frequencies_by_length(model),
        trace_biases_as_products(model),
    ):
        yield


def _build_tracing(model: Any, phase: Phase, whole_cache: bool = False) -> Tracing:
    batches, words = TRACE_SHAPE
    if is_encoder_decoder(model):
        if phase is not Phase.FORWARD:
            read_cache_layers(model, phase)  # refuses it
        inputs = make_stack_inputs(model, batches, words, torch.Generator().manual_seed(0), traced=True)
        return Tracing(Exportable(model), inputs, list_stack_axes(model), list_stack_outputs(model))
    others = count_image_tokens(model) + count_always_kept(model)
    max_length = getattr(find_language_config(model), "max_position_embeddings", None) or 1 << 20
    words = max(words, min(count_words_to_trace(model), max_length - others - _OFFSET))
    inputs = make_example_inputs(model, batches, words + others)
    if phase is not Phase.FORWARD:
        return build_cached_tracing(model, phase, inputs, whole_cache)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    axes = tuple({0: batch} if name == PIXELS else {0: batch, 1: sequence} for name in inputs)
    return Tracing(Exportable(model), inputs, axes, list_output_names(model))


def _keep_scopes_only(program: torch.onnx.ONNXProgram) -> None:
    """The exporter's other notes are larger than the graph, and its stack traces name folders of this machine."""
    for node in program.model.graph.all_nodes():
        for key in set(node.metadata_props) - {SCOPES}:
            del node.metadata_props[key]


@contextlib.contextmanager
def trace_experts_as_products(model: Any) -> Iterator[None]:
    """Trace a mixture of experts as batched products: the grouped ones it runs with have no ONNX form.

    The file gathers the weights of the chosen experts for every token: right, and slow where experts are large.
    """
    if getattr(model.config, "_experts_implementation", None) != "grouped_mm":
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation("grouped_mm")


def build_file_name(phase: Phase) -> str:
    """Of a model exported for a phase."""
    return "model.onnx" if phase is Phase.FORWARD else f"model-{phase}.onnx"
