"""Training the weights of a pruned model for a number of steps, in a way that can be killed and continued."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.healing.items import Items, count_tokens
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.progress import Progress, Stage
from search_spaces.errors import UsageError

EVALUATIONS = 10  # of a run, where the recipe does not say how often


@dataclass(frozen=True)
class Training:
    """What is trained, on what, how.

    Attributes:
        trained: the parameters by name.
        loss: of the model on some inputs, a number that gradients can be taken of.
        evaluate: the held-out loss of the model as it is now.
        items: to train on.
        file: where the state is kept.
        identity: of model, data and recipe, by which the file is known again.
    """

    trained: dict[str, nn.Parameter]
    loss: Callable[[Mapping[str, Tensor]], Tensor]
    evaluate: Callable[[], float]
    items: Items
    recipe: Recipe
    file: Path
    identity: dict[str, Any]

    def run(self, state: TrainingState, progress: Progress) -> TrainingState:
        """Train from a state on until its steps are made, or the held-out loss falls no more.

        The model has the weights of the lowest held-out loss then, those that it began with among them.

        Raises:
            UsageError: the loss is no number any more; the file is gone then.
        """
        optimiser = torch.optim.AdamW(self.trained.values(), lr=self.recipe.learning_rate, weight_decay=0.0)
        if state.weights:
            self._set_weights(state.weights)
            optimiser.load_state_dict(state.optimiser)
        else:
            self._judge(state)
            self._save(state, optimiser)
        every = self.recipe.evaluate_every or max(1, state.steps // EVALUATIONS)
        with progress.open_stage("healing", total=max(1, state.steps - state.done)) as stage:
            before, began = state.seconds, time.monotonic()
            while state.done < state.steps and not self._has_settled(state):
                tokens, moment = state.tokens, time.monotonic()
                self._step(state, optimiser)
                rate = (state.tokens - tokens) / max(1e-9, time.monotonic() - moment)
                judged = state.done % every == 0 or state.done == state.steps
                if judged:
                    self._judge(state)
                state.seconds = before + time.monotonic() - began
                if judged or state.done % self.recipe.save_every == 0:
                    self._save(state, optimiser)
                self._report(stage, state, rate)
        self._set_weights(state.best)
        return state

    def _step(self, state: TrainingState, optimiser: torch.optim.Optimizer) -> None:
        recipe = self.recipe
        for group in optimiser.param_groups:
            group["lr"] = recipe.compute_rate(state.done, state.steps)
        optimiser.zero_grad()
        for inputs in self.items.iterate_batches(state.done, recipe.batch_items, recipe.accumulation):
            loss = self.loss(inputs) / recipe.accumulation
            if not bool(loss.isfinite()):
                self.file.unlink(missing_ok=True)
                raise UsageError(
                    f"--learning-rate {recipe.learning_rate:g}: the loss is no number any more at step "
                    f"{state.done + 1}; give a smaller one"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            state.tokens += count_tokens(inputs)
        nn.utils.clip_grad_norm_(self.trained.values(), recipe.clip)
        optimiser.step()
        state.done += 1

    def _judge(self, state: TrainingState) -> None:
        """Note the held-out loss, and keep the weights if it is the lowest so far."""
        loss = self.evaluate()
        state.history.append((state.done, loss))
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.best = loss, state.done, self._copy_weights()

    def _has_settled(self, state: TrainingState) -> bool:
        """Whether the last evaluations found no improvement."""
        return sum(step > state.best_step for step, _ in state.history) >= self.recipe.patience

    def _save(self, state: TrainingState, optimiser: torch.optim.Optimizer) -> None:
        state.weights, state.optimiser = self._copy_weights(), optimiser.state_dict()
        state.save(self.file, self.identity)

    def _copy_weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(weights[name])

    def _report(self, stage: Stage, state: TrainingState, rate: float) -> None:
        unit = "images/s" if "pixel_values" in self.items.split.inputs else "tokens/s"
        stage.advance(1, f"{rate:,.0f} {unit}, held-out loss {state.history[-1][1]:.4f}, best {state.best_loss:.4f}")


def count_steps(training: Training, minutes: float) -> int:
    """How many steps, with their evaluations, this machine makes in so many minutes; at least one.

    Tried with two steps' passes, of which the second is timed, and an evaluation. No weight changes.
    """
    recipe, seconds = training.recipe, 0.0
    for step in range(2):
        began = time.monotonic()
        for inputs in training.items.iterate_batches(step, recipe.batch_items, recipe.accumulation):
            training.loss(inputs).backward()  # type: ignore[no-untyped-call]
        seconds = time.monotonic() - began
    for parameter in training.trained.values():
        parameter.grad = None
    training.evaluate()  # the parent's outputs are computed with the first
    began = time.monotonic()
    training.evaluate()
    evaluation = time.monotonic() - began
    if recipe.evaluate_every:
        return max(1, int(60 * minutes / (seconds + evaluation / recipe.evaluate_every)))
    return max(1, int((60 * minutes - EVALUATIONS * evaluation) / seconds))
