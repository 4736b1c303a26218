"""Detection of catastrophic overfitting, which undoes the collapse."""

import warnings

from keras_robust.callbacks.held_out_attack import HeldOutAttack
from keras_robust.callbacks.snapshot import Snapshot
from keras_robust.callbacks.snapshot import start_optimizer

# A fall of exactly `drop` does not count as a collapse, even if rounding makes it larger.
_ROUNDING = 1e-9


class CollapseGuard(HeldOutAttack):
    """Restores the weights from before catastrophic overfitting, and stops the training.

    One-step training may collapse: within an epoch, the accuracy under PGD falls to 0 while the
    accuracy under the training attack rises. Loss and clean accuracy do not show the collapse, and
    may even improve. This callback attacks held-out examples in probes: at the start of `fit`,
    after every epoch, and with `every_batches` also within epochs. After a probe with the best
    accuracy so far, it saves the weights, the BatchNorm statistics and the state of the optimizer.
    If the accuracy of a later probe is more than `drop` below the best, it restores all of them
    except the step counter and the learning rate. A warning reports the accuracies, and
    `collapsed_epochs` lists the epochs.

    The callback adds `val_probe_accuracy` to the logs: the result of the last probe of the epoch,
    before a collapse was undone. The radius of the probe is fixed. While the radius of `AdvTrain`
    warms up, the accuracy is low and rises, and only a fall below the best counts. Like
    `RobustValidation`, the callback moves to the front of the list of callbacks, so that the others
    save and measure the restored weights. `EarlyStopping(restore_best_weights=True)` restores its
    own choice of weights afterwards: let it monitor `val_probe_accuracy` or `val_adv_accuracy`,
    because the clean accuracy may be best after a collapse. With `use_ema=True`, Keras ends `fit`
    with the averages, here those of the best probe; a stopped `fit` under
    `SwapEMAWeights(swap_on_epoch=True)` ends with the weights themselves.

    How to choose `drop`: the held-out examples and the random starts are always the same, so that
    an unchanged model has an unchanged accuracy. Two equally good models may differ by up to
    `2 / sqrt(num_examples)` by chance (three standard deviations): 0.14 for 200 examples, 0.06 for
    1000. A large learning rate causes additional fluctuations. Keep `drop` above both.

    Deviations from the authors' code: held-out examples instead of one training batch; a fall below
    the best probe instead of the last one, since a collapse may take two epochs; the state of the
    optimizer is restored too; PGD has 10 steps instead of 5.

    Cost: a probe is `num_steps` attack passes and two forward passes over the held-out examples;
    one copy of weights and optimizer state in host memory.

    Args:
        data: `(x, y)` arrays that are not trained on, or a `tf.data.Dataset` of batches `(x, y)`,
            which is read once; `x` may be a dict or list of several inputs.
        threat_model: a `ThreatModel` with a fixed radius, its name, or for several inputs a dict
            or list of threat models. Defaults to `"linf"`.
        attack: an `Attack` of two steps or more, or its name. Defaults to `"pgd"`.
        drop: float in (0, 1), the fall below the best accuracy that counts as a collapse. Defaults
            to `0.2`, the value of the authors.
        every_batches: int, number of batches between two probes within an epoch; `None` for probes
            at the ends of epochs only. Defaults to `None`.
        stop: bool, whether a collapse ends the training. If `False`, the training continues from
            the restored weights, and may collapse again. Defaults to `True`.
        num_examples: int, number of examples to attack, from the start of the data; `None` for all.
            Defaults to `None`.
        batch_size: int, batch size of the probes. Defaults to `256`.

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
        - [Wong et al., 2020](https://arxiv.org/abs/2001.03994), the collapse, and how to stop.
        - [Andriushchenko and Flammarion, 2020](https://arxiv.org/abs/2007.02617), why it happens.
    """

    rank = 0  # RobustValidation must come later, to measure the restored weights.

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
            # Keras computes the logs of every batch, and waits for them, if any callback has this
            # method. Only a callback that needs it therefore gets it.
            self.on_train_batch_end = self._after_batch

    def on_train_begin(self, logs=None):
        self.collapsed_epochs = []
        self._best = self._snapshot = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = self._probed = 0
        if self._best is None:
            # BackupAndRestore restores the weights in `on_train_begin`, perhaps after this
            # callback.
            start_optimizer(self.model)
            self._probe("the start")

    def on_epoch_end(self, epoch, logs=None):
        # With `every_batches`, the last batch of the epoch may already have a probe.
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
            f"{self._accuracy:.3f} in epoch {self._epoch + 1}: the model resists the training "
            f"attack only. The weights of the best probe, from {self._best_since}, were restored, "
            f"and the training {'ends' if self.stop else 'continues'}. Use AdvTrain with "
            'attack="nfgsm", objective="gradalign", an attack of more steps, or a smaller '
            f"epsilon or learning rate. Received: a fall of {self._best - self._accuracy:.3f} "
            f"with drop={self.drop}",
            stacklevel=2,
        )


def _check(attack, drop, every_batches):
    if getattr(attack, "num_steps", None) == 1:
        raise ValueError(
            "A collapsed model resists attacks of one step, so that they cannot detect the "
            f'collapse. Use an attack of several steps, such as "pgd". Received: attack={attack}'
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
