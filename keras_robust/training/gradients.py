"""What a backward pass gives, and what trainers of all frameworks have in common."""

import typing

from keras_robust import backend
from keras_robust.training.checks import check_outputs
from keras_robust.training.forward_pass import ForwardPass


class StepResult(typing.NamedTuple):
    """What a backward pass gives.

    Fields: `loss`, a scalar; `gradients`, one per trainable weight, times the loss scale;
    `input_gradient`, the same for `x_adv`; `clean` and `adversarial`, the streams; `delta`, what an
    objective with `persistent_delta` hands to the next batch, or `None`.
    """

    loss: object
    gradients: list
    input_gradient: object
    clean: ForwardPass
    adversarial: ForwardPass
    delta: object = None


class BaseGradientStep:
    """The two things of which objectives make a train step, for one batch.

    Args:
        classifier: a `models.Classifier` of a compiled model.
        batch: a `training.Batch`.
        checks_outputs: bool, whether misread outputs stop the training before the first update.

    `outputs` are those for the clean examples before the first update, and `logits_mismatch` says
    if they are logits taken for probabilities, or the reverse; both are `None` until then.
    `requirements` is a list that says what of this must hold.
    """

    def __init__(self, classifier, batch, *, checks_outputs=True):
        self.classifier = classifier
        self.batch = batch
        self.outputs = None
        self.logits_mismatch = None
        self.requirements = []
        self._checks_outputs = checks_outputs

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        """Returns the `StepResult` of one backward pass; every call runs the model anew.

        Args:
            loss: function `(clean, adversarial) -> scalar` of two `training.ForwardPass`.
            found: `attacks.AttackResult`, the adversarial examples.
            batch: `training.Batch` with their labels and sample weights, or `None` where these are
                the ones of the clean examples.
            weights: tensors to be used in place of the trainable weights, or `None`.
            update_state: bool, whether BatchNorm statistics and seeds are updated. Metrics in which
                Keras logs the loss of each output see only passes at the weights of the model.
        """
        raise NotImplementedError

    def apply(self, result):
        """Takes one optimizer step along `result.gradients`, and returns `result`."""
        raise NotImplementedError

    def sum_over_replicas(self, tensors):
        """Returns the sums over the replicas, which divide losses by their number.

        `None`, the gradient of a weight without use, stays what it is.
        """
        return tensors

    def outputs_of(self, stream):
        """Returns the outputs of the model for a stream, in training mode, as plain `fit` has them.

        Where the stream was not used, the model runs, and what it assigns is forgotten.
        """
        if stream.was_used:
            return stream.outputs
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier(stream.x, training=True)

    def loss_of(self, stream):
        """Returns the compiled loss of a stream, a scalar, without regularisers.

        Nothing that its computation assigns, such as metrics, is kept.
        """
        outputs, batch = self.outputs_of(stream), stream.batch
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier.loss_of(outputs, batch.x, batch.y, batch.sample_weight)

    def _note_outputs(self, result):
        """Keeps the outputs for the clean examples; returns what must hold for the first update."""
        if self.outputs is not None:
            return []
        self.outputs = self.outputs_of(result.clean)
        problem = self.classifier.logits_mismatch(self.outputs, self.batch.y)
        self.logits_mismatch = None if problem is None else problem[0]
        required = check_outputs(problem, self.outputs)
        self.requirements += required
        return required


def refuse_assigned(weights):
    """Raises `ValueError` if there are trainable weights that a layer assigned in a pass."""
    if weights:
        raise ValueError(
            "This objective takes gradients at other weights than the model has, and a layer "
            "assigns to a trainable weight while it runs, as SpectralNormalization does, so "
            "that neither would be right. Use another objective, such as the one within. "
            f"Received: a model that assigns to {weights[0].path}"
        )
