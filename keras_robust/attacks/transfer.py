"""Transfer attacks: adversarial examples of one model, evaluated on another."""

import warnings

import keras
from keras import ops

from keras_robust import models
from keras_robust.attacks.attack import Attack
from keras_robust.attacks.attack import registry
from keras_robust.attacks.attack_loss import make_attack_loss
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import strongest


@keras.saving.register_keras_serializable(package="keras_robust")
class Transfer(Attack):
    """Attacks a surrogate model, and evaluates the result on the attacked model.

    Adversarial examples transfer between models for the same task (Szegedy et al., 2014; Papernot
    et al., 2016). Against a model with masked gradients this attack finds examples that gradient
    attacks miss. If it breaks examples that an attack on the model itself does not, that attack has
    failed. Use a surrogate of the same architecture, trained without a defense or with another one.
    A transferred point that fails proves nothing: the attack is usually weaker than a white-box
    attack. With a one-step attack it also creates the examples of ensemble adversarial training
    (Tramèr et al., 2018), one surrogate at a time.

    The attack on the surrogate gets the labels, or without labels the predictions of the attacked
    model at `x`. It returns its last point, even where the surrogate is wrong from the start. Every
    restart is evaluated on the attacked model; if the point has a lower margin loss there than `x`,
    the result is `x`. The surrogate runs in inference mode and never changes. It gets the inputs of
    the attacked model. `AttackResult.zero_gradient` describes the gradients of the surrogate, and
    `AttackResult.queries` counts the queries of the attacked model alone.

    Deviations from the papers: none. The surrogate is given, whereas Papernot et al. train it on
    labels from the attacked model.

    Cost: the passes of the attack on the surrogate, and 4 forward passes of the attacked model per
    restart. In training the compiler drops the forward passes of the attacked model. BatchNorm
    statistics are not updated.

    Args:
        surrogate: a trained `keras.Model` with the classes of the attacked model. `get_config`
            holds its architecture, not its weights.
        attack: an `Attack` or its name. Defaults to `"pgd"`.

    Raises:
        ValueError: for a surrogate that is not a model, is not built, or has other classes than the
            attacked model, and under a threat model at a layer.

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
    # It does not use gradients of the attacked model, only those of the surrogate.
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
        # A surrogate that is rebuilt from a dict has random weights.
        attack._is_untrained = isinstance(config.get("surrogate"), dict)
        return attack

    @property
    def num_restarts(self):
        """The number of restarts of the attack on the surrogate."""
        return self.attack.num_restarts

    @property
    def targeted(self):
        """The `targeted` argument of the attack on the surrogate."""
        return getattr(self.attack, "targeted", False)

    @property
    def stays_in_ball(self):
        """Whether the points of the attack on the surrogate stay in the ball."""
        return self.attack.stays_in_ball

    def search(self, problem):
        logits = problem.classifier.logits(problem.x, problem.y)
        if problem.y is None and self.targeted is not True:
            # The surrogate may predict another class, so the label must not come from it.
            problem = problem._replace(y=ops.stop_gradient(ops.argmax(logits, axis=-1)))
        surrogate = self._surrogate_of(problem.classifier, problem.x, logits.shape[-1])
        away = self.attack.search(problem._replace(classifier=surrogate, keep_best=False))
        if not problem.keep_best:
            return AttackResult.unattacked(away.x_adv)._replace(zero_gradient=away.zero_gradient)
        score = make_attack_loss(problem, self.loss, self.targeted)
        clean = self.score_clean(problem, score)
        # The logits of the clean example were a query, too.
        point = AttackResult.scored(away.x_adv, score, queries=2)
        best = self.leave_mistakes(clean, strongest(clean, point))
        return best._replace(zero_gradient=away.zero_gradient)

    def _surrogate_of(self, classifier, x, num_classes):
        """Returns the surrogate as a `models.Classifier` that takes the inputs of `classifier`."""
        if isinstance(classifier, models.LayerClassifier):
            raise ValueError(
                "A perturbation at a layer of one model has no meaning for another model. Attack "
                f"the inputs, or the model itself. Received: attack={self!r} at a layer"
            )
        if self._is_untrained:
            warnings.warn(
                "A config holds the architecture of the surrogate but not its weights, which are "
                "random unless they were loaded since. Load them, or use "
                "`attack.clone(surrogate=...)` with a trained model. "
                f"Received: the surrogate {self.surrogate.name!r}, made from a config",
                stacklevel=2,
            )
        surrogate = models.Classifier(self.surrogate)
        # `pack` converts the attacked matrix to the inputs of a model with several inputs, or
        # parameters to images.
        leaves = keras.tree.flatten(classifier.pack(x))
        if len(leaves) > 1 or leaves[0].shape != x.shape:
            surrogate = models.Classifier(self.surrogate, classifier.pack)
        own = surrogate.logits(x).shape[-1]
        if own != num_classes:
            raise ValueError(
                "The surrogate and the attacked model must have the same classes. "
                f"Received: a surrogate with {own} and a model with {num_classes} classes"
            )
        return surrogate
