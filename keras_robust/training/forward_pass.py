"""Forward passes of a batch in training mode, as objectives use them."""

import keras
from keras import ops

from keras_robust.models.error_context import error_context


class ForwardPass:
    """One stream of examples, clean or adversarial.

    The model runs once, in training mode, when `outputs` is first read; a stream that an objective
    does not use costs nothing. Read `loss` before the outputs of another stream, because Keras
    keeps only the activity regularizers of the last pass.

    Args:
        classifier: a `models.Classifier`.
        batch: a `training.Batch`, whose `x` goes through the model.
        found: the `attacks.AttackResult` with the examples `x`, or `None` for clean examples.
        outputs: the outputs of the model if it has already run, or `None`. With given outputs,
            `loss` cannot be read.
    """

    def __init__(self, classifier, batch, found=None, outputs=None):
        self.classifier = classifier
        self.batch = batch
        self.found = found
        self._outputs = outputs
        self._regularisers = ()
        self._call = None
        self._loss = None

    @property
    def x(self):
        """Float tensor `(batch_size, ...)`."""
        return self.batch.x

    @property
    def y(self):
        """The labels."""
        return self.batch.y

    @property
    def was_used(self):
        """Whether the model has run on this stream."""
        return self._outputs is not None

    @property
    def outputs(self):
        """The outputs of the model."""
        if self._outputs is None:
            self._outputs = self.classifier(self.x, training=True)
            self._regularisers = self.classifier.model.losses
            self._call = self.classifier.num_calls
        return self._outputs

    @property
    def logits(self):
        """Float32 logits `(batch_size, num_classes)`."""
        return self.classifier.to_logits(self.outputs, self.y)

    @property
    def loss(self):
        """The compiled loss with sample weights and regularizers, a scalar."""
        if self._loss is None:
            self._loss = self._compute_loss(self.batch.sample_weight)
        return self._loss

    def weighted_loss(self, weights):
        """Returns the compiled loss, with `weights`, `(batch_size,)`, times the sample weights."""
        given = self.batch.sample_weight
        if given is not None:
            weights = keras.tree.map_structure(
                lambda own: weights * ops.reshape(ops.cast(own, "float32"), (-1,)), given
            )
        return self._compute_loss(weights)

    def loss_of(self, outputs):
        """Returns the compiled loss of other outputs than the model's, such as a bound on them."""
        return self._compute_loss(self.batch.sample_weight, outputs)

    @property
    def regularisation(self):
        """The sum of the regularizers of the model, a scalar; it is a part of `loss`."""
        # Reading the outputs runs the model, which sets the regularizers.
        self.outputs  # noqa: B018
        total = sum((ops.sum(ops.cast(r, "float32")) for r in self._regularisers), 0.0)
        values = ops.zeros(ops.shape(self.x)[:1], "float32") + total
        return _Mean()(values, values)

    def mean(self, values):
        """Returns the weighted mean of `values`, `(batch_size,)`.

        If the compiled loss has `reduction="sum"`, this is the weighted sum.
        """
        return _Mean(self.classifier.reduction)(values, values, self.batch.sample_weight)

    def _compute_loss(self, sample_weight, outputs=None):
        own = self.outputs
        if self.classifier.num_calls != self._call:
            raise RuntimeError(
                "An objective must read `forward_pass.loss` before the outputs of another stream. "
                f"Received: pass {self._call} of {self.classifier.num_calls} of the model"
            )
        outputs = own if outputs is None else outputs
        given = {"outputs": outputs, "labels": self.y, "sample weights": sample_weight}
        with error_context("The compiled loss cannot be computed", **given):
            _require_loss(self.classifier.model)
            loss = self.classifier.model.compute_loss(
                self.classifier.pack(self.x), self.y, outputs, sample_weight
            )
        # Objectives add losses of float32 logits, whatever the dtype of the compiled loss.
        return ops.cast(loss, "float32")


def _require_loss(model):
    """Raises the ValueError of Keras on TensorFlow if there is no loss to minimize.

    Keras on JAX would train with a loss of 0.
    """
    is_keras = getattr(model.compute_loss, "__func__", None) is keras.Model.compute_loss
    if is_keras and model.loss is None and not model.losses:
        raise ValueError("No loss to compute. Provide a `loss` argument in `compile()`.")


class _Mean(keras.losses.Loss):
    """A loss that reduces per-example values as Keras losses do, also under distribution."""

    def __init__(self, reduction="sum_over_batch_size"):
        super().__init__(name="mean", reduction=reduction, dtype="float32")

    def call(self, y_true, y_pred):
        return y_pred
