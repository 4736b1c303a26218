"""The train step: forward passes, gradients, and checks of the batch."""

from keras_robust import backend
from keras_robust.training.batch import Batch
from keras_robust.training.forward_pass import ForwardPass
from keras_robust.training.gradients import StepResult
from keras_robust.training.steps_taken import read_steps

if backend.IS_JAX:
    from keras_robust.training.jax_gradients import GradientStep
    from keras_robust.training.jax_train_step import TrainStep
else:
    from keras_robust.training.tensorflow_gradients import GradientStep
    from keras_robust.training.tensorflow_train_step import TrainStep

__all__ = [
    "Batch",
    "StepResult",
    "ForwardPass",
    "TrainStep",
    "GradientStep",
    "read_steps",
]
