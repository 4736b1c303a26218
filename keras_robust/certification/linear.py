"""Exact robustness of linear models."""

import typing

import numpy as np
from keras import ops

from keras_robust import backend
from keras_robust import losses
from keras_robust import threat_models
from keras_robust.attacks import affine
from keras_robust.attacks.examples import check_examples


class Exact(typing.NamedTuple):
    """The truth about each example of a data set.

    Fields: `robust`, bool `(n,)`, whether the model is right on every feasible input; `margin`,
    float `(n,)`, by how much the best wrong class beats the true one at the worst feasible input,
    in logits: below 0 where robust.
    """

    robust: np.ndarray
    margin: np.ndarray


def exact_linear(model, x, y, threat_model="linf", *, batch_size=256):
    """Returns the exact robustness of a linear model on every example, no attack needed.

    A model with logits `z_j(x) = <w_j, x> + b_j` is right on all of the feasible set if and only if
    `z_j(x) - z_y(x) + max <w_j - w_y, delta> < 0` for every wrong class `j`; without a box the
    maximum is `epsilon ||w_j - w_y||_q`, `q` dual to the norm, and with a box it is found exactly
    too. `robust.mean()` is the exact robust accuracy: no attack can push it lower.

    Deviations from the textbook: none, up to the rounding of float32; a tie counts as not robust.

    Args:
        model: a `keras.Model`, or a callable that returns logits, affine in its input: Dense
            without activation, Flatten, Rescaling, Normalization.
        x: `(n, ...)`, float, inside the bounds of the threat model.
        y: labels `(n,)` or rows `(n, num_classes)`.
        threat_model: a `ThreatModel` or its name. Defaults to `"linf"`.
        batch_size: int. Does not change the result. Defaults to `256`.

    Returns:
        `Exact`, with NumPy arrays `robust` and `margin`.

    Raises:
        ValueError: for a model that is not affine, for empty, non-finite or out-of-bounds inputs,
            and for labels that are no class.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x, y = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1]], "float32"), np.array([1, 1, 0])
    >>> found = kr.certification.exact_linear(lambda x: x, x, y, kr.Linf(0.1))
    >>> print(found.robust, np.round(found.margin, 2))
    [ True False  True] [-0.4  0.1 -0.6]

    References:
        - [Xu et al., 2009](https://www.jmlr.org/papers/v10/xu09b.html)
    """
    threat_model = threat_models.get(threat_model)
    x, y = check_examples(x, y, threat_model)
    affine.check_affine(model, x.shape[1:], threat_model)
    logits = backend.predict_logits(model, x, batch_size)
    labels = np.asarray(losses.to_indices(y, logits.shape[-1]))
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"Labels must be class indices from 0 to {logits.shape[-1] - 1}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    slopes = affine.slopes(backend.Classifier(model), ops.convert_to_tensor(x[:1]))
    margins = []
    for start in range(0, len(x), batch_size):
        rows = np.arange(start, min(start + batch_size, len(x)))
        ball = threat_model.with_epsilon(threat_model.radius_of_rows(rows, x))
        parts = (ops.convert_to_tensor(part[rows]) for part in (logits, x, labels))
        margins.append(_worst(*parts, slopes, ball))
    margin = np.concatenate(margins)
    return Exact(margin < 0.0, margin)


def _worst(logits, x, labels, slopes, threat_model):
    """Returns the largest of the worst margins of the wrong classes, as an array."""
    margins = affine.worst_margins(logits, slopes, x, labels, threat_model)
    own = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    return ops.convert_to_numpy(ops.max(ops.where(own, -np.inf, margins), axis=-1))
