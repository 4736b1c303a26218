"""Exact worst-case training of linear models: robust SVM, robust logistic regression."""

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

    For logits `z_j(x) = <w_j, x> + b_j` the attacker's maximum is known, so that no attack runs and
    none is stronger. With one logit `z`, labels `y` in {-1, 1} and no box, the loss is
    `l(y z - epsilon ||w||_q)`, `q` dual to the norm of the threat model: the norm is inside the
    loss, and costs nothing on an example whose margin is large, unlike weight decay. A box around
    the inputs is taken into account exactly. It is a convex problem: `Hinge` makes it the robust
    support vector machine, `BinaryCrossentropy(from_logits=True)` the robust logistic regression.

    With several classes the compiled loss sees all worst margins at once,
    `z_j - z_y + max <w_j - w_y, delta>`, above the lowest logit of the true class. Each class has a
    `delta` of its own, so that this is an upper bound of the worst-case cross-entropy. It is exact
    for two classes, and for losses of the largest margin alone, such as `CategoricalHinge`.

    The model may have any layers that together are affine in the input. Labels are classes: 0 and 1
    under a `Hinge` too, which Keras turns into -1 and 1; its accuracy is that at the threshold 0,
    `keras.metrics.BinaryAccuracy(threshold=0.0)`. `certification.exact_linear` gives the exact
    robust accuracy of the model.

    Deviations from the paper: theirs is the problem for the whole training set with one budget for
    all examples, which for the hinge equals a norm penalty; here, as in adversarial training, every
    example has its own budget. Cost: one training pass, and an attack pass on as many examples as
    there are classes. There is nothing whose statistics could be updated.

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
                "The worst case of a linear model is known for labels that are classes. Use a loss "
                f"without label smoothing. Received: label_smoothing={model.loss.label_smoothing}"
            )
        # With its own weights a network may be affine for the time being: a last layer of zeros.
        affine.check_affine(model, _example_shape(model), threat_model, _random_weights(model))

    def perturb(self, attack, classifier, batch):
        return AttackResult.unattacked(batch.x)

    def loss(self, clean, adversarial):
        # Before the outputs of the stream, whose activity regularisers Keras must see last.
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
