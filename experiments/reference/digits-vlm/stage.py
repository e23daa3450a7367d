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


def rate_at(step: int, stage: Stage) -> float:
    """Linear warm-up, constant, then linear to a fiftieth over the last 45 %."""
    down = (stage.steps - step) / (0.45 * stage.steps)
    return stage.learning_rate * max(0.02, min(1.0, (step + 1) / stage.warmup, down))


def optimizers_of(module: nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
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
    state, first = folder / f"{stage.name}.pt", 0
    optimizers = optimizers_of(module, stage)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        module.load_state_dict(saved["module"])
        first = saved["step"]
        if first < stage.steps:
            for optimizer, own in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(own)
    began = time.perf_counter()
    for step in range(first, stage.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate_at(step, stage)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done, last = step + 1, step + 1 == stage.steps
        if done % 20 == 0:
            each = (time.perf_counter() - began) / (done - first)
            print(f"{stage.name} {done}/{stage.steps} loss {loss.item():.3f} {each:.3f} s/step", flush=True)
        if done % stage.report_every == 0 or last:
            line = f"{stage.name} {done}/{stage.steps} loss {loss.item():.3f} {report()}"
            print(line, flush=True)
            with (folder / "STATUS").open("a") as status:
                status.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        if done % stage.save_every == 0 or last:
            saved = {
                "module": module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
            }
            torch.save(saved, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
