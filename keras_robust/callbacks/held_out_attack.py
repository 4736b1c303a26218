"""Base class of callbacks that attack held-out examples."""

import inspect
import itertools
import warnings

import keras
import numpy as np

from keras_robust import attacks
from keras_robust import losses
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.attack_loss import check_seed
from keras_robust.attacks.data import check_classes
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import to_arrays
from keras_robust.attacks.step_reach import step_size_complaint
from keras_robust.callbacks.callback_list import move_callback
from keras_robust.evaluation.checks.cheap_checks import check_epsilon


class HeldOutAttack(keras.callbacks.Callback):
    """Base class of callbacks that repeatedly attack the same held-out examples.

    The callback moves to the front of the list of callbacks, so that the others see its entries in
    the logs; of two subclasses, the one with the lower `rank` comes first. Subclasses call
    `measure`.

    Args:
        data: `(x, y)` arrays, or an iterable of batches `(x, y)`, which is read once.
        threat_model: a `ThreatModel` with a fixed radius, its name, or a dict or list of threat
            models.
        attack: an `Attack` or its name.
        num_examples: int, number of examples from the start of the data; `None` for all.
        batch_size: int.
        seed: int, seed of the random starts, which are the same at every measurement.
    """

    rank = 1

    def __init__(self, data, threat_model, *, attack, num_examples, batch_size, seed=0):
        super().__init__()
        self.threat_model = threat_models.get(threat_model)
        self.attack = attacks.get_for_evaluation(attack)
        # Read the radius: a schedule has none, and must be refused before the first epoch.
        self.threat_model.radius  # noqa: B018
        check_counts(batch_size=batch_size)
        check_seed(seed)
        self.batch_size = batch_size
        self.seed = seed
        x, y = to_arrays(data, num_examples)
        self.x, self.y = check_examples(x, y, self.threat_model)
        self._warn_of_units()
        self._callback_list = list

    def _warn_of_units(self):
        """Warns if epsilon or the step size seems to have other units than the inputs."""
        check = check_epsilon(self.x, self.threat_model)
        small_steps = step_size_complaint(self.attack, self.threat_model)
        if check.verdict == "failed":
            warnings.warn(f"{check.advice} Received: {self.threat_model!r}", stacklevel=4)
        elif small_steps:
            warnings.warn(small_steps, stacklevel=4)

    def set_model(self, model):
        # Raise before the first epoch, not after it.
        models.refuse_preprocessor(model)
        super().set_model(model)
        self._callback_list = move_callback(self, inspect.currentframe().f_back, self._place)

    def measure(self):
        """Returns accuracy and mean cross-entropy under the attack, as floats.

        The attack runs on the weights that Keras validates. With a `SwapEMAWeights` among the
        callbacks, these are the averages.
        """
        swaps = [c for c in self._callback_list() if isinstance(c, keras.callbacks.SwapEMAWeights)]
        for swap in swaps:
            swap.on_test_begin()
        try:
            # The attack must not change the random numbers of the training that goes on after it.
            with models.own_noise(self.model):
                return self._measure()
        finally:
            for swap in swaps:
                swap.on_test_end()

    def _place(self, others):
        """Returns the index for this callback: the front, but after callbacks of lower rank.

        The logs of an epoch pass from callback to callback in the order of the list.
        """
        return sum(1 for _ in itertools.takewhile(self._is_ahead, others))

    def _is_ahead(self, other):
        return isinstance(other, HeldOutAttack) and other.rank < self.rank

    def _measure(self):
        found = self.attack.run(
            self.model,
            self.x,
            self.y,
            self.threat_model,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        logits = self.threat_model.predict_logits(self.model, self.x, found.x_adv, self.batch_size)
        indices = check_classes(self.y, logits.shape[-1])
        accuracy = np.mean(np.argmax(logits, axis=-1) == indices)
        return float(accuracy), float(np.mean(losses.cross_entropy(self.y, logits)))
