"""The callback that undoes the collapse of one-step adversarial training."""

import warnings

from keras_robust.callbacks.held_out_attack import HeldOutAttack
from keras_robust.callbacks.snapshot import Snapshot
from keras_robust.callbacks.snapshot import start_optimizer

_ROUNDING = 1e-9


class CollapseGuard(HeldOutAttack):
    """Takes back the weights if catastrophic overfitting strikes, and stops the training.

    One-step training may collapse: within an epoch the accuracy under PGD falls to 0 while that
    under the training attack rises. Loss and clean accuracy do not show it, and may even improve.
    This callback probes: it attacks held-out examples at the start of `fit`, after every epoch, and
    if asked to, after every so many batches. A probe that is as good as the best before it is kept:
    weights, BatchNorm statistics and optimizer state. If the accuracy of a later one is more than
    `drop` below the best, the collapse is undone: everything kept is put back, but the step counter
    and the learning rate go on. A warning gives the figures, and `collapsed_epochs` the epochs.

    Adds `val_probe_accuracy` to the logs: what the last probe of the epoch has measured, before it
    was undone. The radius of the probe is fixed: while that of `AdvTrain` warms up, the accuracy is
    low and rises, and only a fall from the best counts. Like `RobustValidation` the callback moves
    to the front of the list, so that others save and measure the weights that were put back.
    `EarlyStopping(restore_best_weights=True)` has the last word: let it monitor
    `val_probe_accuracy` or `val_adv_accuracy`, since clean accuracy is best after a collapse. With
    `use_ema=True` Keras ends `fit` with the averages, here those of the best probe; a stopped `fit`
    under `SwapEMAWeights(swap_on_epoch=True)` ends with the plain weights.

    How large a `drop`: the held-out examples and the random starts are always the same, so that a
    model that stays as it is gives the same accuracy again. Two models that are equally good may
    differ by up to `2 / sqrt(num_examples)` by chance (three standard deviations): 0.14 for 200
    examples, 0.06 for 1000. A large learning rate adds swings of its own. Keep `drop` above both.

    Deviations from the authors' code: held-out examples instead of one training batch; a fall below
    the best probe instead of the last one, since a collapse may take two epochs; optimizer state
    goes back too; PGD has 10 steps instead of 5.

    Cost: a probe is `num_steps` attack passes and two forward passes over the held-out examples;
    one copy of weights and optimizer state in host memory.

    Args:
        data: `(x, y)` arrays that are not trained on, or a `tf.data.Dataset` of batches `(x, y)`,
            which is read once; `x` may be a dict or list of several inputs.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of such. Defaults to `"linf"`.
        attack: an `Attack` of two steps or more, or its name. Defaults to `"pgd"`.
        drop: float in (0, 1), how far below the best accuracy is a collapse. Defaults to `0.2`,
            that of the authors.
        every_batches: int, batches from one probe to the next within an epoch; `None` for probes
            at the ends of epochs only. Defaults to `None`.
        stop: bool, whether a collapse ends the training. If not, it goes on from the weights that
            were put back, and may collapse again. Defaults to `True`.
        num_examples: int, the first so many examples are attacked; `None` for all. Defaults to
            `None`.
        batch_size: int, of the probe. Defaults to `256`.

    Raises:
        ValueError: for unknown names, empty or endless data, attacks of one step, and numbers
            out of range.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).uniform(size=(64, 4)).astype("float32")
    >>> y = (x[:, 0] > 0.5).astype("int32")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> fast = kr.AdvTrain(kr.Linf(0.1), attack="randomstartfgsm")
    >>> guard = kr.CollapseGuard((x[48:], y[48:]), kr.Linf(0.1))
    >>> history = model.fit(x[:48], y[:48], epochs=2, verbose=0, callbacks=[fast, guard])
    >>> print(sorted(history.history), guard.collapsed_epochs)
    ['adv_accuracy', 'loss', 'val_probe_accuracy'] []

    References:
        - [Wong et al., 2020](https://arxiv.org/abs/2001.03994), the collapse, and stopping at it.
        - [Andriushchenko and Flammarion, 2020](https://arxiv.org/abs/2007.02617), why it happens.
    """

    rank = 0  # Before RobustValidation, which is to measure the weights that were put back.

    def __init__(
        self,
        data,
        threat_model="linf",
        *,
        attack="pgd",
        drop=0.2,
        every_batches=None,
        stop=True,
        num_examples=None,
        batch_size=256,
    ):
        super().__init__(
            data,
            threat_model,
            attack=attack,
            num_examples=num_examples,
            batch_size=batch_size,
        )
        _check(self.attack, drop, every_batches)
        self.drop = drop
        self.every_batches = every_batches
        self.stop = stop
        self.collapsed_epochs = []
        self._epoch = self._batches = self._probed = 0
        self._accuracy = self._best = self._best_since = self._snapshot = None
        if every_batches is not None:
            # Keras waits for the numbers of every batch once a callback has this method.
            self.on_train_batch_end = self._after_batch

    def on_train_begin(self, logs=None):
        self.collapsed_epochs = []
        self._best = self._snapshot = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = self._probed = 0
        if self._best is None:
            # Not in `on_train_begin`, where BackupAndRestore has yet to bring the weights.
            start_optimizer(self.model)
            self._probe("the start")

    def on_epoch_end(self, epoch, logs=None):
        if self._probed == 0 or self._probed != self._batches:
            self._probe()
        if logs is not None:
            logs["val_probe_accuracy"] = self._accuracy

    def on_train_end(self, logs=None):
        self._snapshot = None

    def _after_batch(self, batch, logs=None):
        self._batches = batch + 1
        if self._batches - self._probed >= self.every_batches:
            self._probe()
            self._probed = self._batches

    def _probe(self, time=None):
        self._accuracy, _ = self.measure()
        if self._best is None or self._accuracy >= self._best:
            self._best, self._best_since = self._accuracy, time or f"epoch {self._epoch + 1}"
            self._snapshot = Snapshot(self.model)
        elif self._best - self._accuracy > self.drop + _ROUNDING:
            self._roll_back()

    def _roll_back(self):
        self._snapshot.restore()
        self.collapsed_epochs.append(self._epoch)
        if self.stop:
            self.model.stop_training = True
        warnings.warn(
            f"The accuracy under {type(self.attack).__name__} collapsed from {self._best:.3f} to "
            f"{self._accuracy:.3f} in epoch {self._epoch + 1}: the model has learned to defeat the "
            f"training attack only. The weights of the best probe, from {self._best_since}, are "
            f"back, and the training {'ends' if self.stop else 'goes on'}. Use AdvTrain "
            'with attack="nfgsm", objective="gradalign", an attack of more steps, or a smaller '
            f"epsilon or learning rate. Received: a fall of {self._best - self._accuracy:.3f} with "
            f"drop={self.drop}",
            stacklevel=2,
        )


def _check(attack, drop, every_batches):
    if getattr(attack, "num_steps", None) == 1:
        raise ValueError(
            "A collapsed model withstands attacks of one step, so that they cannot show the "
            f'collapse. Use an attack of several, such as "pgd". Received: attack={attack}'
        )
    if not 0.0 < drop < 1.0:
        raise ValueError(
            "Argument `drop` is a difference of accuracies, and must be above 0 and below 1. "
            f"Received: drop={drop!r}"
        )
    if every_batches is not None and (not isinstance(every_batches, int) or every_batches < 1):
        raise ValueError(
            "Argument `every_batches` must be an int >= 1, or None. "
            f"Received: every_batches={every_batches!r}"
        )
