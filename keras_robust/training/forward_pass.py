"""Forward passes of a batch in training mode, as objectives use them."""

import contextlib
import operator

import keras
from keras import ops

from keras_robust.backend.keras_internals import added_losses
from keras_robust.backend.keras_internals import with_regularisers
from keras_robust.models.error_context import error_context


class ForwardPass:
    """A forward pass of clean or adversarial examples.

    The model runs once, in training mode, when `outputs` is first read; a pass that an objective
    does not use costs nothing. `loss` includes the activity regularizers of this pass, even if the
    model has run on other examples since.

    Args:
        classifier: a `models.Classifier`.
        batch: a `training.Batch`, whose `x` goes through the model.
        found: the `attacks.AttackResult` with the examples `x`, or `None` for clean examples.
        outputs: the outputs of the model if it has already run, or `None`. A pass with given
            outputs has no `loss`.
    """

    def __init__(self, classifier, batch, found=None, outputs=None):
        self.classifier = classifier
        self.batch = batch
        self.found = found
        self._outputs = outputs
        self._regularisers = ()
        self._added_losses = None
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
        """Whether the model has run."""
        return self._outputs is not None

    @property
    def outputs(self):
        """The outputs of the model."""
        if self._outputs is None:
            self._outputs = self.classifier(self.x, training=True)
            # Read them now: the next run of the model replaces them.
            self._regularisers = self.classifier.model.losses
            self._added_losses = added_losses(self.classifier.model)
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
        """Returns the compiled loss under the sample weights times `weights`, `(batch_size,)`."""
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
        self._refuse_given_outputs()
        return self.penalty(sum((ops.sum(ops.cast(r, "float32")) for r in self._regularisers), 0.0))

    def penalty(self, value):
        """Returns a scalar that is no mean over examples, as a term to add to the loss."""
        # A Keras loss reduces it, so that a replica adds only its share, as in the compiled loss.
        values = ops.zeros(ops.shape(self.x)[:1], "float32") + value
        return _Mean()(values, values)

    def mean(self, values):
        """Returns the weighted mean of `values`, `(batch_size,)`.

        If the compiled loss has `reduction="sum"`, this is the weighted sum.
        """
        return _Mean(self.classifier.reduction)(values, values, self.batch.sample_weight)

    def _compute_loss(self, sample_weight, outputs=None):
        own = self.outputs
        self._refuse_given_outputs()
        outputs = own if outputs is None else outputs
        given = {"outputs": outputs, "labels": self.y, "sample weights": sample_weight}
        failing = error_context("The compiled loss cannot be computed", **given)
        with failing, self._with_own_regularisers():
            self._require_loss()
            loss = self.classifier.model.compute_loss(
                self.classifier.pack(self.x), self.y, outputs, sample_weight
            )
        # Objectives add losses of float32 logits, whatever the dtype of the compiled loss.
        return ops.cast(loss, "float32")

    def _refuse_given_outputs(self):
        """Raises RuntimeError if another object has run the model for this pass."""
        if self._added_losses is None:
            raise RuntimeError(
                "This forward pass has the outputs of the model, but not its regularizers, so that "
                "it has no loss. Read the loss in the function that `gradient_step.backward` "
                "calls. Received: a forward pass of a `StepResult`"
            )

    def _with_own_regularisers(self):
        """Returns a context in which `model.losses` are those of this pass.

        Keras keeps the activity regularizers of the last run only. If this pass was the last run,
        Keras computes `model.losses` by itself.
        """
        latest, own = added_losses(self.classifier.model), self._added_losses
        if len(latest) == len(own) and all(map(operator.is_, latest, own)):
            return contextlib.nullcontext()
        return with_regularisers(self.classifier.model, self._regularisers)

    def _require_loss(self):
        """Raises ValueError if there is no loss to minimize, as Keras does on TensorFlow.

        On JAX, Keras would train with a loss of 0.
        """
        model = self.classifier.model
        is_keras = getattr(model.compute_loss, "__func__", None) is keras.Model.compute_loss
        if is_keras and model.loss is None and not self._regularisers:
            raise ValueError("No loss to compute. Provide a `loss` argument in `compile()`.")


class _Mean(keras.losses.Loss):
    """A loss that reduces per-example values as Keras losses do, also under distribution."""

    def __init__(self, reduction="sum_over_batch_size"):
        super().__init__(name="mean", reduction=reduction, dtype="float32")

    def call(self, y_true, y_pred):
        return y_pred
