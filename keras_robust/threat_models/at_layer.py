"""A threat model for the output of a layer, such as an embedding."""

import copy

import keras
from keras import ops

from keras_robust import models
from keras_robust.threat_models.layout import map_named
from keras_robust.threat_models.threat_model_wrapper import ThreatModelWrapper


@keras.saving.register_keras_serializable(package="keras_robust")
class AtLayer(ThreatModelWrapper):
    """Perturbs the output of a layer of the model: for text, the embeddings of the tokens.

    Tokens cannot change by a small amount, but their embeddings can. With `h` the model up to the
    layer and `f` the rest, the attacker chooses `delta` in `f(h(x) + delta)`. Miyato et al. (2017)
    take one step, `delta = epsilon * g / ||g||_2` over the whole sequence:
    `AdvTrain(AtLayer("embedding", L2(5.0, bounds=None)), attack="fgsm", objective=Mixed(...))`. It
    is a regularization: on IMDB their test error falls from 7.39% to 6.21%. Such training does not
    give robustness against changed words, and `evaluate`, which reports robust accuracy, refuses
    it.

    In training, gradients also reach the layers up to the named one: only `delta` is held fixed,
    and every pass computes `h(x) + delta` again, with Dropout and BatchNorm in training mode. The
    search for the perturbation runs around `h(x)` in inference mode. Without a perturbation the
    model computes bit for bit the same as without this class. Masks, such as those of
    `Embedding(mask_zero=True)`, are kept. Masked positions are not perturbed and use none of the
    budget. A random start is drawn in the ball over all positions, and masked positions are then
    reset. An embedding could evade the perturbation by growing: put a normalization after the
    embedding and name that layer, as the authors do.

    Deviations from the paper: it normalizes embeddings by the frequencies of words. Here the user
    adds a layer for that, such as `BatchNormalization` or `UnitNormalization`. Cost: none beside
    the attack, whose every pass runs the whole model. BatchNorm layers in front of the layer see
    the same batch in every stream.

    Args:
        layer: str, the name of the layer. It may be anywhere in the model, including nested and
            subclassed models. It must run once per pass, and return one float tensor
            `(batch_size, ...)`.
        threat_model: a `ThreatModel` with `bounds=None`, because the output of a layer has no box.
            The radius is one number, or in `Linf` also an array over the last axis.

    Raises:
        ValueError: for a threat model with bounds. Once the model is known: for a name that no
            layer or more than one layer has, and for a layer that runs several times or not at all,
            or returns anything other than one float tensor.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> embedding = keras.layers.Embedding(4, 2, weights=[np.eye(4, 2)], name="embedding")
    >>> pool = keras.layers.GlobalAveragePooling1D()
    >>> model = keras.Sequential([keras.Input((2,), dtype="int32"), embedding, pool])
    >>> ball = kr.threat_models.AtLayer("embedding", kr.L2(0.5, bounds=None))
    >>> print(np.round(kr.attacks.FGSM()(model, np.array([[0, 1]]), np.array([0]), ball), 2))
    [[[ 0.75  0.25]
      [-0.25  1.25]]]

    References:
        - [Miyato et al., 2017](https://arxiv.org/abs/1605.07725)
        - [authors' code](https://github.com/tensorflow/models/tree/archive/research/adversarial_text)
    """

    changes_inputs = False
    exposes_inputs = False

    def __init__(self, layer, threat_model):
        super().__init__(threat_model)
        if self.threat_model.bounds is not None:
            raise ValueError(
                "The output of a layer has no box of valid values: use bounds=None, such as "
                f"L2(1.0, bounds=None). Received: {self.threat_model!r}"
            )
        self.layer = layer
        self._given = {"layer": layer, "threat_model": self.threat_model}
        self._mask = None

    def bind(self, model, inputs):
        classifier = models.LayerClassifier(model, self.layer, inputs)
        # A copy, because the mask belongs to these inputs only.
        other = copy.copy(self)
        other._mask = classifier.mask
        return classifier.origin, classifier, other

    def map_inputs(self, function, inputs):
        if keras.tree.is_nested(inputs):
            return map_named(function, inputs, {})
        return function(inputs, None, None)

    def pack(self, x_adv, inputs):
        return x_adv

    def predict_logits(self, model, inputs, x_adv, batch_size):
        batches = zip(
            models.batches_of(inputs, batch_size),
            models.batches_of(x_adv, batch_size),
            strict=True,
        )
        logits = [
            models.LayerClassifier(model, self.layer, batch).logits(rows) for batch, rows in batches
        ]
        return ops.convert_to_numpy(ops.concatenate(logits))

    def project(self, x_adv, x):
        # Mask before the projection, so that masked positions use none of the budget.
        return super().project(self._visible(x_adv, x), x)

    def steepest_direction(self, gradient):
        return super().steepest_direction(self._visible(gradient, 0.0))

    def linear_maximization_oracle(self, direction, x):
        return super().linear_maximization_oracle(self._visible(direction, 0.0), x)

    def step(self, x_adv, gradient, step_size):
        return super().step(x_adv, self._visible(gradient, 0.0), step_size)

    def random_start(self, x, seed):
        return self._visible(super().random_start(x, seed), x)

    def random_start_on_sphere(self, x, seed):
        return self._visible(super().random_start_on_sphere(x, seed), x)

    def project_onto_hyperplane(self, x, gradient, change):
        return self._visible(
            super().project_onto_hyperplane(x, self._visible(gradient, 0.0), change), 0.0
        )

    def _visible(self, values, otherwise):
        """Returns `values`, replaced by `otherwise` at masked positions."""
        if self._mask is None:
            return values
        missing = len(values.shape) - len(self._mask.shape)
        mask = ops.reshape(self._mask, (*ops.shape(self._mask), *[1] * missing))
        return ops.where(mask, values, otherwise)
