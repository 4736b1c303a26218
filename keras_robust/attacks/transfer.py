"""Adversarial examples of one model, tried on another."""

import warnings

import keras
from keras import ops

from keras_robust import models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack import registry
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import strongest


@keras.saving.register_keras_serializable(package="keras_robust")
class Transfer(Attack):
    """Runs another attack on a surrogate model, and tries its points on the attacked model.

    Adversarial examples carry over between models for the same task (Szegedy et al., 2014;
    Papernot et al., 2016). Against a model that hides its gradients this finds what gradient
    attacks miss; where it breaks examples that an attack on the model itself leaves standing, that
    attack has failed. Use the same architecture trained without a defence, or with another one. A
    transferred point that fails proves nothing: as a rule this is weaker than a white-box attack.
    With a one-step attack it also makes the examples of ensemble adversarial training (Tramèr et
    al., 2018), one surrogate at a time.

    The attack on the surrogate gets the labels, or what the attacked model predicts at `x` if there
    are none, and returns its last point, also where the surrogate is wrong from the start. Every
    restart of the attack is tried on the attacked model; where the point has a lower margin loss
    there than `x`, `x` comes back. The surrogate runs in inference mode and never changes. It gets
    the inputs of the attacked model. `AttackResult.zero_gradient` is about the gradients of the
    surrogate, `AttackResult.queries` counts those of the attacked model alone.

    Deviations from the papers: none; the surrogate is a given one, where Papernot et al. train it
    on labels asked from the attacked model.

    Cost: the passes of the attack on the surrogate, and for each restart 4 forward passes of the
    attacked model, in training none that is not dropped from the graph. BatchNorm statistics see
    none of it.

    Args:
        surrogate: a trained `keras.Model` with the classes of the attacked model. `get_config`
            holds its architecture, not its weights.
        attack: an `Attack` or its name. Defaults to `"pgd"`.

    Raises:
        ValueError: for a surrogate that is no model, has not been built, or has other classes than
            the attacked model, and under a threat model at a layer.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> surrogate = keras.Sequential([keras.Input((2,)), keras.layers.Activation("linear")])
    >>> attack = kr.attacks.Transfer(surrogate, "bim")
    >>> x, y = np.array([[0.6, 0.5]], "float32"), np.array([0])
    >>> print(np.round(attack(lambda x: 3.0 * x, x, y, kr.Linf(0.1)), 2))
    [[0.5 0.6]]

    References:
        - [Szegedy et al., 2014](https://arxiv.org/abs/1312.6199)
        - [Papernot et al., 2016](https://arxiv.org/abs/1605.07277)
        - [Tramèr et al., 2018](https://arxiv.org/abs/1705.07204)
    """

    loss = "margin"
    # None of the attacked model.
    uses_gradients = False

    def __init__(self, surrogate, attack="pgd"):
        if not isinstance(surrogate, keras.Model):
            raise ValueError(
                "Argument `surrogate` must be a keras.Model: `keras.models.load_model` reads one "
                f"from a file. Received: surrogate={surrogate!r}"
            )
        if not surrogate.built:
            raise ValueError(
                "The surrogate has no weights yet: train it first, or load one that is trained. "
                f"Received: surrogate={surrogate!r}, which is not built"
            )
        self.surrogate = surrogate
        self.attack = registry.get(attack)
        self._is_untrained = False

    @classmethod
    def from_config(cls, config):
        attack = super().from_config(config)
        attack._is_untrained = isinstance(config.get("surrogate"), dict)
        return attack

    @property
    def num_restarts(self):
        """Those of the attack on the surrogate."""
        return self.attack.num_restarts

    @property
    def targeted(self):
        """Whether the attack on the surrogate is."""
        return getattr(self.attack, "targeted", False)

    @property
    def stays_in_ball(self):
        """Whether the attack on the surrogate does."""
        return self.attack.stays_in_ball

    def search(self, classifier, x, y, threat_model, seed, keep_best, restart=0):
        logits = classifier.logits(x, y)
        if y is None and self.targeted is not True:
            y = ops.stop_gradient(ops.argmax(logits, axis=-1))
        surrogate = self._surrogate_of(classifier, x, logits.shape[-1])
        away = self.attack.search(surrogate, x, y, threat_model, seed, False, restart)
        if not keep_best:
            return AttackResult.unattacked(away.x_adv)._replace(zero_gradient=away.zero_gradient)
        shape = ops.shape(x)[:1]
        score = make_attack_loss(classifier, x, y, self.loss, self.targeted)
        clean = AttackResult(x, *score(x), away.zero_gradient, counted(shape, 3))
        point = AttackResult(away.x_adv, *score(away.x_adv), away.zero_gradient, counted(shape, 1))
        best = strongest(clean, point)
        return choose(clean.success, clean, best)._replace(queries=best.queries)

    def _surrogate_of(self, classifier, x, num_classes):
        """Returns the surrogate as a `models.Classifier` of the inputs of another."""
        if isinstance(classifier, models.LayerClassifier):
            raise ValueError(
                "A perturbation at a layer of one model means nothing to another. Attack the "
                f"inputs, or the model itself. Received: attack={self!r} at a layer"
            )
        if self._is_untrained:
            warnings.warn(
                "A config holds the architecture of the surrogate and not its weights, so that "
                "these are random unless they were loaded since. Load them, or use "
                "`attack.clone(surrogate=...)` with a trained model. "
                f"Received: the surrogate {self.surrogate.name!r}, made from a config",
                stacklevel=2,
            )
        surrogate = models.Classifier(self.surrogate)
        if len(keras.tree.flatten(classifier.pack(x))) > 1:
            surrogate = models.Classifier(self.surrogate, classifier.pack)
        own = surrogate.logits(x).shape[-1]
        if own != num_classes:
            raise ValueError(
                "The surrogate and the attacked model must have the same classes. "
                f"Received: a surrogate with {own} and a model with {num_classes} classes"
            )
        return surrogate
