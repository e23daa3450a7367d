"""The curves of a training, as they are logged: numbers by step under a name."""

from nas.healing.state import TrainingState
from nas.tracking.record import Curves

TRAINING_LOSS, VALIDATION_LOSS, LEARNING_RATE = "heal.training_loss", "heal.validation_loss", "heal.learning_rate"
POINTS = 500  # of a curve at most


def build_curves(state: TrainingState) -> Curves:
    """Training loss, validation loss and learning rate over the steps, the last one among them.

    Returns:
        By name, steps from 1 on (0 is before the first) with their values, `POINTS` at most, evenly spaced.
    """
    every = -(-len(state.losses) // POINTS) if state.losses else 1
    kept = state.losses[::-1][::every][::-1]
    curves = {
        TRAINING_LOSS: [(step, loss) for step, loss, _ in kept],
        VALIDATION_LOSS: list(state.history),
        LEARNING_RATE: [(step, rate) for step, _, rate in kept],
    }
    return {name: curve for name, curve in curves.items() if curve}
