"""Models that only answer queries: functions on NumPy arrays."""

import keras
import numpy as np

from keras_robust import backend

_SINGLE = (
    "For one probability p return two columns, `np.stack([1 - p, p], axis=-1)`; for one logit z, "
    "`np.stack([0 * z, z], axis=-1)`. "
)


class BlackBox:
    """A function on NumPy arrays that replaces a model, such as the client of a served model.

    `evaluate` and `attack.run` accept it wherever they accept a model, for attacks that need only
    scores (`Square`, `SPSA`) or decisions: `kr.evaluate(model, data, attacks="black_box")`. The
    function has no gradient, so gradient attacks raise a `ValueError`. The function gets whole
    batches: their size is the `batch_size` of the call, and the last batch may be padded with
    copies. Examples that an attack has already broken are still sent with the rest of their batch.

    The function runs in Python, outside of the graph, so XLA cannot compile it. It should not call
    TensorFlow: if TensorFlow has only one thread for operations, the call would wait for itself.
    A model that TensorFlow can call, such as a loaded SavedModel, needs no `BlackBox`.

    Args:
        predict: callable. Takes a float32 array `(n, ...)`, or a structure of arrays if the model
            has several inputs. Returns scores `(n, num_classes)`; the largest score is the
            decision. Logits are best. Probabilities saturate; their logarithms do not. If only
            decisions are known, return one-hot rows. Examples with scores that are not finite
            count as unbroken.
        num_classes: int >= 2, the number of columns.

    Call arguments: a tensor `(batch_size, ...)` or a structure of tensors. Returns float32
    `(batch_size, num_classes)`.

    Raises:
        ValueError: for wrong arguments, and in a call for outputs of another shape. Inside a
            compiled attack, TensorFlow raises it as an `InvalidArgumentError` with the same text.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> def predict(x):  # Send a request here.
    ...     return 10.0 * x
    >>> model = kr.evaluation.BlackBox(predict, num_classes=2)
    >>> x, y = np.array([[0.6, 0.4], [0.9, 0.1]], "float32"), np.array([0, 0])
    >>> found = kr.attacks.Square(num_queries=50).run(model, x, y, kr.Linf(0.2))
    >>> print(found.success)
    [ True False]
    """

    def __init__(self, predict, num_classes):
        if not callable(predict):
            raise ValueError(
                "Argument `predict` must be a function from an array of inputs to an array of "
                f"scores. Received: {predict!r}"
            )
        if not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(
                f"Argument `num_classes` must be an int >= 2. {_SINGLE}Received: {num_classes!r}"
            )
        self.predict = predict
        self.num_classes = num_classes

    def __call__(self, x):
        return backend.host_function(self._scores, x, self.num_classes)

    def _scores(self, x):
        scores = np.asarray(self.predict(x))
        expected = (len(keras.tree.flatten(x)[0]), self.num_classes)
        if scores.shape != expected or scores.dtype.kind not in "fiub":
            # With two classes, one column is probably a probability or a logit.
            is_single = self.num_classes == 2 and scores.shape in (expected[:1], (expected[0], 1))
            raise ValueError(
                f"The black box must return one number for each example and class, {expected}. "
                f"{_SINGLE if is_single else ''}"
                f"Received: an array of shape {scores.shape} and dtype {scores.dtype}"
            )
        # The dtype that `host_function` declares to TensorFlow.
        return scores.astype("float32")
