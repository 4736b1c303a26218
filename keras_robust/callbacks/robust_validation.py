"""Accuracy under an attack, in the validation logs."""

from keras_robust.callbacks.held_out_attack import HeldOutAttack


class RobustValidation(HeldOutAttack):
    """Attacks validation examples after every epoch, and logs accuracy and loss.

    Adds `val_adv_accuracy`, the accuracy under the attack, and `val_adv_loss`, the mean
    cross-entropy of the adversarial examples, to the logs of the epoch. This callback moves to the
    front of the list of callbacks, so that `EarlyStopping`, `ModelCheckpoint`,
    `ReduceLROnPlateau`, `CSVLogger` and `TensorBoard` see the two entries. To monitor the accuracy,
    pass `mode="max"`: Keras infers the mode of its own metrics only.

    Between evaluations (`every` > 1) the last values are repeated, so that the logs of every epoch
    have the same keys; the first and the last epoch are always evaluated. The attack is weaker than
    the attacks of `keras_robust.evaluate`: use the accuracy to choose between epochs, but do not
    report it as robust accuracy.

    Args:
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, which is read once; `x`
            may be a dict or list of several inputs.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of threat models. Defaults to `"linf"`.
        attack: an `Attack` or its name. Defaults to `"pgd"`.
        every: int, number of epochs between two evaluations. Defaults to `1`.
        num_examples: int, number of examples to attack, from the start of the data; `None` for all.
            Defaults to `None`.
        batch_size: int. Defaults to `256`.
        seed: int, seed of the random starts, which are the same in every epoch. Defaults to `0`.

    Raises:
        ValueError: for unknown names, empty or endless data, or `every < 1`.

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
        - [Rice et al., 2020](https://arxiv.org/abs/2002.11569): robust accuracy falls long before
          clean accuracy does.
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
        if every < 1:
            raise ValueError(f"Argument `every` must be an int >= 1. Received: every={every!r}")
        super().__init__(
            data,
            threat_model,
            attack=attack,
            num_examples=num_examples,
            batch_size=batch_size,
            seed=seed,
        )
        self.every = every
        self._latest = {}

    def on_train_begin(self, logs=None):
        self._latest = {}

    def on_epoch_end(self, epoch, logs=None):
        is_last = epoch + 1 == self.params.get("epochs")
        if not self._latest or (epoch + 1) % self.every == 0 or is_last:
            accuracy, loss = self.measure()
            self._latest = {"val_adv_accuracy": accuracy, "val_adv_loss": loss}
        if logs is not None:
            logs.update(self._latest)
