"""Gradient steps: results of backward passes, and the part that all backends share."""

import typing

from keras_robust import backend
from keras_robust.training.forward_pass import ForwardPass
from keras_robust.training.output_checks import check_outputs


class StepResult(typing.NamedTuple):
    """The result of a backward pass.

    Fields: `loss`, a scalar; `gradients`, one per trainable weight, multiplied by the loss scale;
    `input_gradient`, the gradient with respect to `x_adv`, multiplied by the loss scale; `clean`
    and `adversarial`, the `ForwardPass` of each; `delta`, the perturbation that an objective with
    `persistent_delta` keeps for the next batch, or `None`; `zero_gradient`, bool `(batch_size,)`,
    whether all input gradients were zero, by default those of the attack. `AdvTrain` reports this
    field, and not that of `adversarial.found`.

    `GradientStep.apply` fills three more, which are `None` before: `outputs`, the outputs of the
    model for the clean examples before the first update of the batch; `logits_mismatch`, a scalar
    bool tensor, whether the loss takes logits where the outputs are probabilities or vice versa, or
    `None` if neither can be; `requirements`, the list of `Requirement` that the batch must fulfill,
    to which later passes of the same batch add theirs.
    """

    loss: object
    gradients: list
    input_gradient: object
    clean: ForwardPass
    adversarial: ForwardPass
    delta: object = None
    zero_gradient: object = None
    outputs: object = None
    logits_mismatch: object = None
    requirements: object = None


class BaseGradientStep:
    """Computes gradients of an objective on one batch, and applies them.

    Args:
        classifier: a `models.Classifier` of a compiled model.
        batch: a `training.Batch`.
        checks_outputs: bool, whether a mismatch of logits and probabilities stops the training
            before the first update.

    Attributes: `classifier` and `batch`, the arguments. Whatever else a train step reads is in the
    `StepResult` that `apply` returns.
    """

    def __init__(self, classifier, batch, *, checks_outputs=True):
        self.classifier = classifier
        self.batch = batch
        # What `apply` reports of a batch: its outputs are those before the first of its updates.
        self._outputs = None
        self._logits_mismatch = None
        self._requirements = []
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
        """Takes one optimizer step with `result.gradients`.

        Args:
            result: a `StepResult` of `backward`, whose fields may have been replaced.

        Returns:
            The `StepResult` with all fields.
        """
        raise NotImplementedError

    def sum_over_replicas(self, tensors):
        """Returns the sums of tensors over the replicas; each replica has a share of the loss.

        `None`, the gradient of an unused weight, stays `None`.
        """
        return tensors

    def outputs_of(self, forward_pass):
        """Returns the outputs of the model for a `ForwardPass`, as in plain `fit`.

        If the pass was not used, the model runs, and its assignments to variables are discarded.
        """
        if forward_pass.was_used:
            return forward_pass.outputs
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier(forward_pass.x, training=True)

    def loss_of(self, forward_pass):
        """Returns the compiled loss of a `ForwardPass`, a scalar, without regularizers.

        All assignments to variables, such as updates of metrics, are discarded.
        """
        outputs, batch = self.outputs_of(forward_pass), forward_pass.batch
        with backend.forgotten_pass(self.classifier.model):
            return self.classifier.loss_of(outputs, batch.x, batch.y, batch.sample_weight)

    def _note_outputs(self, result):
        """Stores the outputs for the clean examples before the first update.

        Returns the requirements on them, and no requirements before later updates.
        """
        if self._outputs is not None:
            return []
        self._outputs = self.outputs_of(result.clean)
        problem = self.classifier.logits_mismatch(self._outputs, self.batch.y)
        self._logits_mismatch = None if problem is None else problem[0]
        required = check_outputs(problem, self._outputs)
        self._requirements += required
        return required

    def _complete(self, result):
        """Returns the result with the fields that `apply` fills."""
        return result._replace(
            outputs=self._outputs,
            logits_mismatch=self._logits_mismatch,
            requirements=self._requirements,
        )


def refuse_assigned(weights):
    """Raises ValueError if a layer assigned to trainable weights during a pass."""
    if weights:
        raise ValueError(
            "This objective takes gradients at other weights than those of the model, and a "
            "layer assigns to a trainable weight when it runs, as SpectralNormalization does. "
            "The two cannot be combined. Use another objective, such as the one that this "
            f"objective wraps. Received: a model that assigns to {weights[0].path}"
        )
