"""Exact worst-case training of linear models: robust SVM and robust logistic regression."""

import keras
import numpy as np

from keras_robust import losses
from keras_robust import models
from keras_robust.attacks import AttackResult
from keras_robust.certification import affine
from keras_robust.objectives.objective import Objective


@keras.saving.register_keras_serializable(package="keras_robust")
class WorstCaseLinear(Objective):
    """The compiled loss at the worst feasible input of a linear model, in closed form.

    For logits `z_j(x) = <w_j, x> + b_j` the maximum of the attacker has a closed form, so no attack
    runs and none is stronger. With one logit `z`, labels `y` in {-1, 1} and no bounds, the loss is
    `l(y z - epsilon ||w||_q)`, with `q` dual to the norm of the threat model. Unlike with weight
    decay, the norm is inside the loss and adds nothing for an example with a large margin. Bounds
    of the inputs are included exactly. The problem is convex: `Hinge` gives the robust support
    vector machine, and `BinaryCrossentropy(from_logits=True)` the robust logistic regression.

    With several classes the compiled loss gets all worst margins at once,
    `z_j - z_y + max <w_j - w_y, delta>`, relative to the lowest logit of the true class. Each class
    has its own `delta`, so this is an upper bound of the worst-case cross-entropy. The bound is
    exact for two classes, and for losses like `CategoricalHinge` that depend on the largest margin
    alone.

    The model may have any layers whose composition is affine in the input. Labels are classes: 0
    and 1 also with `Hinge`, which Keras turns into -1 and 1. The threshold of the accuracy is then
    0: `keras.metrics.BinaryAccuracy(threshold=0.0)`. `certification.exact_linear` returns the exact
    robust accuracy of the model.

    Deviations from the paper: the paper solves the problem for the whole training set with one
    budget for all examples, which for the hinge loss equals a norm penalty. Here every example has
    its own budget, as in adversarial training. Cost: one training pass, and an attack pass on as
    many examples as there are classes. An affine model has no statistics to update.

    Raises:
        ValueError: in `fit`, for a model that is not affine or has several inputs, and for label
            smoothing.

    Example:

    A robust support vector machine and a robust logistic regression.

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> keras.utils.set_random_seed(0)
    >>> x = np.random.default_rng(0).uniform(size=(256, 2)).astype("float32")
    >>> y = (x[:, 0] + 0.2 * x[:, 1] > 0.6).astype("int32")
    >>> for loss in (keras.losses.Hinge(), keras.losses.BinaryCrossentropy(from_logits=True)):
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.Adam(0.05), loss)
    ...     robust = kr.AdvTrain(kr.Linf(0.1), objective="worst_case_linear", warmup=0)
    ...     history = model.fit(x, y, epochs=30, verbose=0, callbacks=[robust])
    ...     certified = kr.certification.exact_linear(model, x, y, kr.Linf(0.1)).robust.mean()
    ...     print(f"{certified:.1f}")
    0.8
    0.8

    References:
        - [Xu et al., 2009](https://www.jmlr.org/papers/v10/xu09b.html)
        - [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6572), section 5
    """

    runs_attack = False

    def check(self, model, threat_model):
        if getattr(model.loss, "label_smoothing", 0.0):
            raise ValueError(
                "The worst case of a linear model is only known for labels that are classes: "
                "compile a loss without label smoothing. "
                f"Received: label_smoothing={model.loss.label_smoothing}"
            )
        # Check with random weights: with its own weights, for example a last layer of zeros, a
        # network can be affine by chance.
        affine.check_affine(model, _example_shape(model), threat_model, _random_weights(model))

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        # Compute the slopes before `clean.logits`, because Keras collects the activity regularizers
        # of the last call of the model.
        slopes = affine.slopes(clean.classifier, clean.x)
        logits = clean.logits
        labels = losses.to_indices(models.single(clean.y), logits.shape[-1])
        worst = affine.worst_logits(logits, slopes, clean.x, labels, clean.batch.threat_model)
        return clean.loss_of(clean.classifier.to_outputs(worst, clean.outputs))


def _random_weights(model):
    """Returns pairs of the trainable weights and random values for them."""
    rng = np.random.default_rng(0)
    return [(w, rng.normal(size=w.shape).astype("float32")) for w in model.trainable_weights]


def _example_shape(model):
    """Returns the shape of one example of a model with one input."""
    shapes = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) == 1 and None not in shapes[0]:
        return shapes[0]
    raise ValueError(
        "WorstCaseLinear must know the shape of the one input of the model: make a Sequential or "
        "functional model that starts with keras.Input(shape), without None. "
        f"Received: a {type(model).__name__} with inputs of shape {shapes or 'unknown'}"
    )
