"""Certificates in L2 from margins and Lipschitz constants."""

import math

import keras
import numpy as np

from keras_robust import models
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from keras_robust.certification.graph import propagate
from keras_robust.certification.lipschitz_constants import LipschitzBound
from keras_robust.certification.lipschitz_constants import lipschitz_bound
from keras_robust.certification.model_checks import SLACK
from keras_robust.certification.model_checks import check_logits
from keras_robust.certification.model_checks import check_precision
from keras_robust.certification.model_checks import check_shape
from keras_robust.certification.radii import LARGEST

# The constants are computed in float64. This factor keeps their rounding errors, about 1e-16 for
# each operation, from making a radius too large.
_ABOVE = 1.0 + 1e-9


@keras.saving.register_keras_serializable(package="keras_robust")
class Lipschitz(Certificate):
    """Certifies a model in L2 from its margins, tight if its layers are orthogonal.

    `R = min_j (z_y - z_j) / (||w_y - w_j|| L)`, where `L` is the product of the norms of the layers
    before the last Dense layer; for models that do not end in a Dense layer,
    `(z_y - max z_j) / (sqrt(2) L)`. For models of `SpectralDense`, `OrthogonalConv2D` and
    `GroupSort`, `L` is 1 up to rounding; for other models `L` is huge, and the radii are near 0.

    Every norm is computed in float64 from the weights that the model uses: for a dense matrix by
    all singular values (LAPACK), and for a convolution by the largest singular value over all
    frequencies of a circular convolution that contains it, an upper bound for zero padding. Power
    iteration gives no upper bound, so it is not used. The proof holds up to rounding, as for
    `Crown`: every gap `z_y - z_j` counts as smaller by 1e-6 of the largest logit. TensorFloat-32,
    which GPUs may use, rounds by more, about 1e-3. Half precision raises a `ValueError`.

    Deviations from the paper: that slack; the constant of each pair of classes is used rather than
    sqrt(2). Cost: one forward pass for each input, and the singular values once.

    Raises:
        ValueError: in `certify` for a layer or an activation without a known constant or in half
            precision, which the message names; for a model with a custom `call`; and, if the loss
            takes probabilities, for a model that does not end in a softmax or sigmoid.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> layers = [kr.layers.SpectralDense(4), kr.layers.GroupSort()]
    >>> head = keras.layers.Dense(2, kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((4,)), *layers, head])
    >>> x = np.array([[0.9, 0.1, 0.3, 0.2]], "float32")
    >>> gap = abs(np.diff(model(x)))[0, 0]
    >>> ratio = gap / kr.certification.Lipschitz().certify(model, x).radii[0]
    >>> print(f"{ratio:.3f}")
    1.414

    References:
        - [Tsuzuku et al., 2018](https://arxiv.org/abs/1802.04034)
        - [Anil et al., 2019](https://arxiv.org/abs/1811.05381)
        - [Sedghi et al., 2019](https://arxiv.org/abs/1805.10408), on norms of convolutions.
    """

    norm = "L2"

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        check_shape(model, x)
        check_precision(model)
        if not len(x):
            return CertificationResult(np.zeros(0, "int64"), np.zeros(0))
        bound = propagate(model, LipschitzBound(1.0, x.shape), lipschitz_bound)
        check_logits(model, bound)
        bound = bound.logits or bound
        logits = models.predict_logits(model, x, batch_size).astype("float64")
        labels = np.argmax(logits, axis=-1)
        rows, slack = np.arange(len(logits)), SLACK * np.max(np.abs(logits), axis=-1)
        gaps = np.maximum((logits[rows, labels] - slack)[:, None] - logits, 0.0)
        constants = _ABOVE * _pair_constants(bound, logits.shape[-1])[labels]
        # If no class can win, as for a constant model, the radius is the largest one, unless
        # rounding decides.
        fixed = np.where(gaps > 0.0, LARGEST, 0.0)
        radii = np.divide(gaps, constants, out=fixed, where=constants > 0.0)
        # The predicted class itself is not a mistake.
        radii[rows, labels] = LARGEST
        return CertificationResult(labels, np.minimum(np.min(radii, axis=-1), LARGEST))


def _pair_constants(bound, num_classes):
    """Returns the Lipschitz constants of the differences of logits, `(classes, classes)`."""
    if bound.head is None:
        # The difference of two coordinates has the norm sqrt(2) (Tsuzuku et al., 2018).
        return np.full((num_classes, num_classes), math.sqrt(2.0) * bound.constant)
    kernel, before = bound.head
    # A single logit z stands for the two logits (0, z).
    if kernel.shape[-1] == 1:
        kernel = np.hstack([np.zeros_like(kernel), kernel])
    differences = kernel.T[:, None] - kernel.T[None]
    return before * np.linalg.norm(differences, axis=-1)
