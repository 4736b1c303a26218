"""Gradient steps: results of backward passes, and the part that all backends share."""

import typing

from keras_robust import backend
from keras_robust.training.forward_pass import ForwardPass
from keras_robust.training.output_checks import check_outputs


class StepResult(typing.NamedTuple):
    """The result of a backward pass.

    Fields: `loss`, a scalar; `gradients`, one per trainable weight, multiplied by the loss scale;
    `input_gradient`, the gradient with respect to `x_adv`, multiplied by the loss scale; `clean`
    and `adversarial`, the forward_passes; `delta`, the perturbation that an objective with
    `persistent_delta` keeps for the next batch, or `None`.
    """

    loss: object
    gradients: list
    input_gradient: object
    clean: ForwardPass
    adversarial: ForwardPass
    delta: object = None


class BaseGradientStep:
    """Computes gradients of an objective on one batch, and applies them.

    Args:
        classifier: a `models.Classifier` of a compiled model.
        batch: a `training.Batch`.
        checks_outputs: bool, whether a mismatch of logits and probabilities stops the training
            before the first update.

    Attributes: `outputs`, the outputs for the clean examples before the first update;
    `logits_mismatch`, whether the loss mistakes logits for probabilities, or vice versa; both are
    `None` before the first update. `requirements`, a list of `Requirement` that the batch must
    fulfill.
    """

    def __init__(self, classifier, batch, *, checks_outputs=True):
        self.classifier = classifier
        self.batch = batch
        self.outputs = None
        self.logits_mismatch = None
        self.requirements = []
        self._checks_outputs = checks_outputs

    def backward(self, loss, found, *, batch=None, weights=None, update_state=True):
        """Returns the `StepResult` of one backward pass; every call runs the model again.

        Args:
            loss: function `(clean, adversarial) -> scalar` of two `training.ForwardPass`.
            found: `attacks.AttackResult`, the adversarial examples.
            batch: `training.Batch` with the labels and sample weights of the adversarial examples,
                or `None` if they are those of the clean examples.
            weights: tensors to be used instead of the trainable weights, or `None`.
            update_state: bool, whether BatchNorm statistics and seeds are updated. The metrics in
                which Keras logs the loss of each output are updated only by passes at the weights
                of the model.
        """
        raise NotImplementedError

    def apply(self, result):
        """Takes one optimizer step with `result.gradients`, and returns `result`."""
        raise NotImplementedError

    def sum_over_replicas(self, tensors):
        """Returns the sums of tensors over the replicas; each replica has a share of the loss.

        `None`, the gradient of an unused weight, stays `None`.
        """
        return tensors

    def outputs_of(self, forward_pass):
        """Returns the outputs of the model for a stream in training mode, as in plain `fit`.

        If the stream was not used, the model runs, and its assignments to variables are discarded.
        """
        if forward_pass.was_used:
            return forward_pass.outputs
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier(forward_pass.x, training=True)

    def loss_of(self, forward_pass):
        """Returns the compiled loss of a stream, a scalar, without regularizers.

        All assignments to variables, such as updates of metrics, are discarded.
        """
        outputs, batch = self.outputs_of(forward_pass), forward_pass.batch
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier.loss_of(outputs, batch.x, batch.y, batch.sample_weight)

    def _note_outputs(self, result):
        """Stores the outputs for the clean examples; returns the requirements on them."""
        if self.outputs is not None:
            return []
        self.outputs = self.outputs_of(result.clean)
        problem = self.classifier.logits_mismatch(self.outputs, self.batch.y)
        self.logits_mismatch = None if problem is None else problem[0]
        required = check_outputs(problem, self.outputs)
        self.requirements += required
        return required


def refuse_assigned(weights):
    """Raises ValueError if a layer assigned to trainable weights during a pass."""
    if weights:
        raise ValueError(
            "This objective takes gradients at other weights than those of the model, and a "
            "layer assigns to a trainable weight when it runs, as SpectralNormalization does. "
            "The two cannot be combined. Use another objective, such as the one that this "
            f"objective wraps. Received: a model that assigns to {weights[0].path}"
        )
