"""TensorFlow: gradients of an objective on one batch, and the optimizer that takes them."""

import contextlib
import typing

import keras
import tensorflow as tf

from keras_robust.backend.stream import Stream
from keras_robust.backend.tensorflow_checks import check_outputs


class Result(typing.NamedTuple):
    """What a backward pass gives.

    Fields: `loss`, a scalar; `gradients`, one per trainable weight, times the loss scale;
    `input_gradient`, the same for `x_adv`; `clean` and `adversarial`, the streams; `delta`, what an
    objective with `carries_delta` hands to the next batch, or `None`.
    """

    loss: object
    gradients: list
    input_gradient: object
    clean: Stream
    adversarial: Stream
    delta: object = None


class Trainer:
    """The two things of which objectives make a train step, for one batch.

    Args:
        classifier: a `backend.Classifier` of a compiled model.
        batch: a `backend.Batch`.
        checks_outputs: bool, whether misread outputs stop the training before the first update.

    `outputs` are those for the clean examples before the first update, and `misread` says if they
    are logits taken for probabilities, or the reverse; both are `None` until then.
    """

    def __init__(self, classifier, batch, *, checks_outputs=True):
        self.classifier = classifier
        self.batch = batch
        self.outputs = None
        self.misread = None
        self._checks_outputs = checks_outputs

    def backward(self, loss, found, *, batch=None, weights=None, keeps_state=True):
        """Returns the `Result` of one backward pass; every call runs the model anew.

        Args:
            loss: function `(clean, adversarial) -> scalar` of two `backend.Stream`.
            found: `attacks.Found`, the adversarial examples.
            batch: `backend.Batch` with their labels and sample weights, or `None` where these are
                the ones of the clean examples.
            weights: tensors to be used in place of the trainable weights, or `None`.
            keeps_state: bool, whether BatchNorm statistics and seeds are updated. Metrics in which
                Keras logs the loss of each output see only passes at the weights of the model.
        """
        model = self.classifier.model
        x_adv = tf.stop_gradient(found.x_adv)
        clean = Stream(self.classifier, self.batch)
        adversarial = Stream(self.classifier, (batch or self.batch)._replace(x=x_adv), found)
        scope, watched, sources = contextlib.nullcontext(), [x_adv], model.trainable_weights
        if weights is not None or not keeps_state:
            # Inside, nothing is assigned, and every weight that Keras reads must be given.
            sources = [tf.convert_to_tensor(weight) for weight in weights or sources]
            pairs = zip(model.trainable_weights, sources, strict=True)
            scope = keras.StatelessScope(list(pairs), collect_losses=True)
            watched += sources
        with scope, tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(clean, adversarial)
            scaled = model.optimizer.scale_loss(value)
        if isinstance(scope, keras.StatelessScope):
            _refuse_assigned(model, scope, sources)
        gradients = tape.gradient(scaled, [*sources, x_adv])
        if keeps_state and weights is not None:
            trained = {id(weight) for weight in model.trainable_weights}
            _assign([v for v in model.variables if id(v) not in trained], scope)
        if not keeps_state and weights is None:
            # Keras logs the losses of several outputs as those at the weights of the model.
            _assign([v for metric in model.metrics for v in metric.variables], scope)
        return Result(value, gradients[:-1], gradients[-1], clean, adversarial)

    def apply(self, result):
        """Takes one optimizer step along `result.gradients`, and returns `result`."""
        model = self.classifier.model
        checks = []
        if self.outputs is None:
            clean = result.clean
            self.outputs = clean.outputs if clean.was_used else self.classifier(clean.x)
            problem = self.classifier.misread(self.outputs, self.batch.y)
            self.misread = None if problem is None else problem[0]
            checks = check_outputs(problem, self.outputs) if self._checks_outputs else []
        if all(gradient is None for gradient in result.gradients):
            raise ValueError(
                "No gradient leads from the loss to any trainable weight. Look for a loss, a layer "
                "or an objective that rounds, casts to integers or leaves TensorFlow. Received: "
                f"loss={model.loss!r} and {len(result.gradients)} trainable weights"
            )
        with tf.control_dependencies(checks):
            pairs = zip(result.gradients, model.trainable_weights, strict=True)
            model.optimizer.apply_gradients(pairs)
        return result

    def sum_over_replicas(self, tensors):
        """Returns the sums over the replicas; Keras divides losses by their number.

        `None`, the gradient of a weight without use, stays what it is.
        """
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return tensors
        given = [tensor for tensor in tensors if tensor is not None]
        sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
        return [None if tensor is None else next(sums) for tensor in tensors]


def _refuse_assigned(model, scope, sources):
    """Raises `ValueError` if a layer has given a trainable weight another value in its pass."""
    for weight, source in zip(model.trainable_weights, sources, strict=True):
        if scope.get_current_value(weight) is not source:
            raise ValueError(
                "This objective takes gradients at other weights than the model has, and a layer "
                "assigns to a trainable weight while it runs, as SpectralNormalization does, so "
                "that neither would be right. Use another objective, such as the one within. "
                f"Received: a model that assigns to {weight.path}"
            )


def _assign(variables, scope):
    """Assigns to some variables what a pass in a stateless scope would have changed them to."""
    for variable in variables:
        value = scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)
