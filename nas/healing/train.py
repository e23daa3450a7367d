"""Training the weights of a pruned model for a number of steps, in a way that can be killed and continued."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas.healing.devices import average_gradients
from nas.healing.items import Batch, Items, count_tokens
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.healing.trainable import TrainedWeights
from nas.progress import Progress, Stage
from search_spaces.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

EVALUATIONS = 10  # of a run, where the recipe does not say how often
SLOWER = 0.3  # times the learning rate, where it made the model worse than it began


@dataclass(frozen=True)
class Training:
    """What is trained, on what, how.

    Attributes:
        weights: that are trained.
        loss: of the model on some items, a number that gradients can be taken of.
        evaluate: the held-out loss of the model as it is now.
        items: to train on.
        file: where the state is kept.
        identity: of model, data and recipe, by which the file is known again.
        accelerator: the device and the processes.
    """

    weights: TrainedWeights
    loss: Callable[[Batch], Tensor]
    evaluate: Callable[[], float]
    items: Items
    recipe: Recipe
    file: Path
    identity: dict[str, Any]
    accelerator: "Accelerator"

    def run(
        self, state: TrainingState, progress: Progress, until: int | None = None, limit_s: float = math.inf
    ) -> TrainingState:
        """Train from a state on until its steps are made, the held-out loss falls no more, or the time is up.

        The model has the weights of the lowest held-out loss then, those that it began with among them.

        Args:
            until: so many steps are made, for now; None for all of the state's.
            limit_s: of the training so far, that before the state included.

        Raises:
            UsageError: the loss is no number any more; the file is gone then.
        """
        optimiser = self._open_optimiser(state)
        last = state.steps if until is None else until
        every = self.recipe.evaluate_every or max(1, state.steps // EVALUATIONS)
        with progress.open_stage("healing", total=max(1, last - state.done)) as stage:
            before, began = state.seconds, time.monotonic()
            while state.done < last and state.seconds < limit_s and not self._has_settled(state):
                tokens, moment = state.tokens, time.monotonic()
                self._step(state, optimiser)
                rate = (state.tokens - tokens) / max(1e-9, time.monotonic() - moment)
                judged = state.done % every == 0 or state.done == last
                if judged:
                    self._judge(state)
                state.seconds = before + time.monotonic() - began
                if judged or state.done % self.recipe.save_every == 0:
                    self._save(state, optimiser)
                self._report(stage, state, rate)
        if state.history[-1][0] < state.done:  # the time was up between two evaluations
            self._judge(state)
            self._save(state, optimiser)
        self.weights.set(state.best)
        return state

    def _open_optimiser(self, state: TrainingState) -> Any:
        """The optimiser as the state has it; a state that begins is evaluated and kept."""
        parameters = list(self.weights.parameters.values())
        made = torch.optim.AdamW(parameters, lr=self.recipe.highest_rate, weight_decay=0.0)
        optimiser = self.accelerator.prepare_optimizer(made)
        if state.weights:
            self.weights.set(state.weights)
            optimiser.load_state_dict(state.optimiser)
        else:
            self._judge(state)
            self._save(state, optimiser)
        return optimiser

    def _step(self, state: TrainingState, optimiser: Any) -> None:
        recipe, accelerator, losses = self.recipe, self.accelerator, list[float]()
        rate = state.rate_scale * recipe.compute_rate(state.done, state.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        for batch in self.items.iterate_batches(state.done, recipe.batch_items, recipe.accumulation):
            with accelerator.accumulate():
                losses.append(self._pass_back(batch, state))
                if accelerator.sync_gradients:
                    average_gradients(accelerator, self.weights.parameters.values())
                    accelerator.clip_grad_norm_(self.weights.parameters.values(), recipe.clip)
                optimiser.step()
                optimiser.zero_grad()
            state.tokens += count_tokens(batch.inputs) * accelerator.num_processes
        state.done += 1
        state.losses.append((state.done, sum(losses) / len(losses), rate))

    def _pass_back(self, batch: Batch, state: TrainingState) -> float:
        """The loss of a batch, whose gradients are added to those that are there."""
        loss = self.loss(batch.to(self.accelerator.device))
        if not bool(loss.isfinite()):
            self.file.unlink(missing_ok=True)
            raise UsageError(
                f"--learning-rate {self.recipe.learning_rate:g}: the loss is no number any more at step "
                f"{state.done + 1}; give a smaller one"
            )
        self.accelerator.backward(loss)
        return loss.item()

    def _judge(self, state: TrainingState) -> None:
        """Note the held-out loss, and keep the weights if it is the lowest so far.

        A rate that is right for a damaged model takes a good one apart: where the loss is above that of the start,
        training goes on from the best weights at a lower rate.
        """
        loss = self._evaluate()
        state.history.append((state.done, loss))
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.best = loss, state.done, self.weights.copy()
        elif loss > state.history[0][1]:
            self.weights.set(state.best)
            state.history.append((state.done, state.best_loss))
            state.rate_scale *= SLOWER

    def _evaluate(self) -> float:
        """The held-out loss that the first process finds, for all of them: they must agree whether to go on."""
        losses = [self.evaluate() if self.accelerator.is_main_process else math.nan]
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(losses)
        return losses[0]

    def _has_settled(self, state: TrainingState) -> bool:
        """Whether the last evaluations found no improvement, in the half in which the learning rate is low."""
        worse = {step for step, _ in state.history if step > state.best_step}
        return len(worse) >= self.recipe.patience and 2 * state.done >= state.steps

    def _save(self, state: TrainingState, optimiser: Any) -> None:
        state.weights, state.optimiser = self.weights.copy(), optimiser.state_dict()
        if self.accelerator.is_main_process:
            state.save(self.file, self.identity)

    def _report(self, stage: Stage, state: TrainingState, rate: float) -> None:
        unit = "images/s" if "pixel_values" in self.items.split.inputs else "tokens/s"
        stage.advance(1, f"{rate:,.0f} {unit}, held-out loss {state.history[-1][1]:.4f}, best {state.best_loss:.4f}")


@dataclass(frozen=True)
class Pace:
    """How long training takes here, in seconds.

    Attributes:
        step: one, without evaluations.
        evaluation: one.
    """

    step: float
    evaluation: float

    def count_steps(self, seconds: float, evaluate_every: int | None = None) -> int:
        """How many steps, with their evaluations, there is time for; at least one."""
        if evaluate_every:
            return max(1, int(seconds / (self.step + self.evaluation / evaluate_every)))
        return max(1, int((seconds - EVALUATIONS * self.evaluation) / self.step))


def measure_pace(training: Training) -> Pace:
    """The pace of this machine; no weight changes.

    Tried with two steps' passes, of which the second is timed, and an evaluation.
    """
    recipe, seconds = training.recipe, 0.0
    for step in range(2):
        began = time.monotonic()
        for batch in training.items.iterate_batches(step, recipe.batch_items, recipe.accumulation):
            training.accelerator.backward(training.loss(batch.to(training.accelerator.device)))
        seconds = time.monotonic() - began
    for parameter in training.weights.parameters.values():
        parameter.grad = None
    training.evaluate()  # the parent's outputs are computed with the first
    began = time.monotonic()
    training.evaluate()
    return Pace(seconds, time.monotonic() - began)
