"""The callback that adds the accuracy under an attack to the validation logs."""

import inspect

import keras
import numpy as np

from keras_robust import attacks
from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks.examples import check_examples
from keras_robust.attacks.examples import to_arrays


class RobustValidation(keras.callbacks.Callback):
    """Attacks validation examples after an epoch, and logs how the model stands.

    Adds `val_adv_accuracy`, the accuracy under the attack, and `val_adv_loss`, the mean
    cross-entropy of the adversarial examples, to the logs of the epoch. `EarlyStopping`,
    `ModelCheckpoint`, `ReduceLROnPlateau`, `CSVLogger` and `TensorBoard` see them like any other
    entry, whatever their place in the list: this callback moves itself to the front of it. Tell
    them which way is better, `mode="max"` for the accuracy: Keras knows its own metrics only.

    Between evaluations (`every` > 1) the last values are repeated, so that no callback misses a
    key; the first and the last epoch are always evaluated. The attack is weaker than that of
    `keras_robust.evaluate`: use the value to choose between epochs, not as robust accuracy.

    Args:
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, which is read once.
        threat_model: a `ThreatModel` with a fixed radius, or its name. Defaults to `"linf"`.
        attack: an `Attack` or its name. Defaults to `"pgd"`.
        every: int, epochs from one evaluation to the next. Defaults to `1`.
        num_examples: int, the first so many examples are attacked; `None` for all. Defaults to
            `None`.
        batch_size: int. Defaults to `256`.
        seed: int, of the random starts: every epoch has the same ones. Defaults to `0`.

    Raises:
        ValueError: for unknown names, empty data, or `every < 1`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.random.default_rng(0).uniform(size=(64, 4)).astype("float32")
    >>> y = (x[:, 0] > 0.5).astype("int32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> robust = kr.RobustValidation((x, y), kr.Linf(0.1))
    >>> history = model.fit(x, y, verbose=0, callbacks=[robust])
    >>> print(sorted(history.history))
    ['loss', 'val_adv_accuracy', 'val_adv_loss']

    References:
        - [Rice et al., 2020](https://arxiv.org/abs/2002.11569), why to watch it: robust accuracy
          falls long before clean accuracy does.
    """

    def __init__(
        self,
        data,
        threat_model="linf",
        *,
        attack="pgd",
        every=1,
        num_examples=None,
        batch_size=256,
        seed=0,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"Argument `every` must be an int >= 1. Received: every={every!r}")
        self.threat_model = threat_models.get(threat_model)
        self.attack = attacks.get_untargeted(attack)
        # A schedule has no radius: better said now than after the first epoch.
        self.threat_model.radius  # noqa: B018
        self.every = every
        self.batch_size = batch_size
        self.seed = seed
        x, y = to_arrays(data, num_examples)
        self.x, self.y = check_examples(x, y, self.threat_model)
        self._latest = {}
        self._neighbours = []

    def set_model(self, model):
        super().set_model(model)
        self._neighbours = _move_to_front(self, inspect.currentframe().f_back)

    def on_train_begin(self, logs=None):
        self._latest = {}

    def on_epoch_end(self, epoch, logs=None):
        is_last = epoch + 1 == self.params.get("epochs")
        if not self._latest or (epoch + 1) % self.every == 0 or is_last:
            self._latest = self._evaluate_as_validation()
        if logs is not None:
            logs.update(self._latest)

    def _evaluate_as_validation(self):
        """Evaluates the weights that Keras validates: those of `SwapEMAWeights`, if it is there."""
        swaps = [c for c in self._neighbours if isinstance(c, keras.callbacks.SwapEMAWeights)]
        for swap in swaps:
            swap.on_test_begin()
        try:
            return self._evaluate()
        finally:
            for swap in swaps:
                swap.on_test_end()

    def _evaluate(self):
        found = self.attack.run(
            self.model,
            self.x,
            self.y,
            self.threat_model,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        logits = backend.predict_logits(self.model, found.x_adv, self.batch_size)
        indices = np.asarray(losses.to_indices(self.y, logits.shape[-1]))
        return {
            "val_adv_accuracy": float(np.mean(np.argmax(logits, axis=-1) == indices)),
            "val_adv_loss": float(np.mean(losses.cross_entropy(self.y, logits))),
        }


def _move_to_front(callback, frame):
    """Puts a callback first in the list that calls its `set_model`, and returns the list.

    The logs of an epoch go from callback to callback in the order of the list, and Keras hands no
    callback the list: it is found as the caller. Safe while the list is walked: what stood before
    the callback has had its turn, and what comes after it stays where it is.
    """
    owner = frame.f_locals.get("self") if frame else None
    if isinstance(owner, keras.callbacks.CallbackList) and callback in owner.callbacks:
        owner.callbacks.remove(callback)
        owner.callbacks.insert(0, callback)
        return owner.callbacks
    return []
