"""A program that knows Transformers only: loads a folder in a new process and answers what it is asked.

`python hf_program.py PLACE` reads `question.json` and `question.safetensors` there and writes `reply.json` and
`reply.npz`. Nothing of this package is imported, unless the question says that the folder has to be registered.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, STEP = "prompt", "step"  # names of tensors beside the inputs, which begin with their number
_LEAST_SECONDS = 0.3  # that a rate is measured for


def main(place: Path) -> None:
    """Answer the question that lies in a folder."""
    import numpy as np
    import torch
    import transformers
    from safetensors.torch import load_file

    asked = json.loads((place / "question.json").read_text())
    if asked["register"]:
        import nas

        nas.register(asked["folder"])
    began = time.perf_counter()
    loader = getattr(transformers, asked["auto"])
    model = loader.from_pretrained(asked["folder"], dtype=torch.float32, local_files_only=True).eval()
    seconds = time.perf_counter() - began
    with torch.inference_mode():
        said, arrays = answer_question(model, asked, load_file(place / "question.safetensors"))
    if not asked["register"]:
        assert "nas" not in sys.modules, "the folder is to be loaded without it"
    np.savez(place / "reply.npz", **arrays)
    reply = {**said, "load_seconds": seconds, "version": transformers.__version__}
    (place / "reply.json").write_text(json.dumps(reply))


def answer_question(
    model: Any, asked: dict[str, Any], tensors: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs, a step from the cache, greedy tokens, and how many items or tokens a second."""
    prompt = tensors.pop(PROMPT, None)
    inputs: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        at, _, name = key.partition("/")
        inputs.setdefault(at, {})[name] = tensor
    arrays = {at: model(**given)[0].float().numpy() for at, given in inputs.items()}
    if prompt is None:
        last = max(inputs)
        return {"made": [], "rate": len(arrays[last]) * _count_calls(lambda: model(**inputs[last]))}, arrays
    cache = model(input_ids=prompt[:, :-1], use_cache=True).past_key_values
    arrays[STEP] = model(input_ids=prompt[:, -1:], past_key_values=cache, use_cache=True).logits[0, -1].float().numpy()

    def generate() -> list[int]:
        made = model.generate(
            prompt, attention_mask=prompt.new_ones(prompt.shape), max_new_tokens=asked["tokens"], do_sample=False,
            num_beams=1, repetition_penalty=1.0, pad_token_id=0, eos_token_id=asked["stop"] or None,
        )  # fmt: skip
        tokens: list[int] = made[0, prompt.shape[1] :].tolist()
        return tokens

    made = generate()
    return {"made": made, "rate": len(made) * _count_calls(generate)}, arrays


def _count_calls(call: Callable[[], object]) -> float:
    """Calls a second."""
    runs, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _LEAST_SECONDS or not runs:
        call()
        runs += 1
    return runs / seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]))
