"""A stage of training: a fixed number of steps that can be stopped at any time and go on from its last state."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Stage:
    """Name of the state file, steps, highest learning rate, whether Muon trains the blocks, and how often (in steps) to
    save and to report."""

    name: str
    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: int = 96
    muon: bool = False
    save_every: int = 200
    report_every: int = 400


def compute_rate(step: int, stage: Stage) -> float:
    """Linear warm-up, constant, then linear to a fiftieth over the last 45 %."""
    down = (stage.steps - step) / (0.45 * stage.steps)
    return stage.learning_rate * max(0.02, min(1.0, (step + 1) / stage.warmup, down))


def build_optimizers(module: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """AdamW; with `stage.muon`, Muon for the matrices of the blocks (K. Jordan 2024), which leaves plateaus sooner."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    blocks = [p for name, p in named if stage.muon and ".layers." in name and p.ndim == 2]
    others = [p for _, p in named if not any(p is block for block in blocks)]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))
    if not blocks:
        return [adamw]
    decay = stage.weight_decay
    return [adamw, torch.optim.Muon(blocks, lr=stage.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")]


def run(
    stage: Stage, module: nn.Module, loss_at: Callable[[int], torch.Tensor], report: Callable[[], str], folder: Path
) -> None:
    """Take the steps that are left; `loss_at(step)` must depend on the step and the weights only, `report()` says how
    good the module is. Ends at once when the state in `folder` is that of the last step."""
    state, optimizers = folder / f"{stage.name}.pt", build_optimizers(module, stage)
    first = resume(state, stage, module, optimizers)
    began = time.perf_counter()
    for done in range(first + 1, stage.steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = compute_rate(done - 1, stage)
        loss = loss_at(done - 1)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        line = f"{stage.name} {done}/{stage.steps} loss {loss.item():.3f}"
        if done % 20 == 0:
            print(f"{line} {(time.perf_counter() - began) / (done - first):.3f} s/step", flush=True)
        if done % stage.report_every == 0 or done == stage.steps:
            note(folder / "STATUS", f"{line} {report()}")
        if done % stage.save_every == 0 or done == stage.steps:
            keep(state, done, module, optimizers)


def resume(state: Path, stage: Stage, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Load a state where there is one; the number of steps done."""
    if not state.exists():
        return 0
    saved = torch.load(state, weights_only=True)
    module.load_state_dict(saved["module"])
    if saved["step"] < stage.steps:
        for optimizer, own in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(own)
    return int(saved["step"])


def keep(state: Path, step: int, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Write the state whole or not at all."""
    own = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"module": module.state_dict(), "optimizers": own, "step": step}, state.with_suffix(".new"))
    state.with_suffix(".new").replace(state)


def note(status: Path, line: str) -> None:
    print(line, flush=True)
    with status.open("a") as lines:
        lines.write(f"{time.strftime('%H:%M:%S')} {line}\n")
