"""Classifiers: models as functions that return logits."""

import contextlib
import copy
import inspect

import keras
from keras import ops

from keras_robust import backend
from keras_robust.backend.keras_internals import with_regularisers
from keras_robust.backend.keras_internals import without_output_metrics
from keras_robust.models.batch_size import check_batch_size
from keras_robust.models.compiled_loss import BINARY_LOSSES
from keras_robust.models.compiled_loss import OWN_LOSSES
from keras_robust.models.compiled_loss import REDUCTIONS
from keras_robust.models.compiled_loss import read_loss
from keras_robust.models.dtypes import compute_dtype_scope
from keras_robust.models.dtypes import current_dtype
from keras_robust.models.error_context import error_context
from keras_robust.models.probabilities import are_probabilities
from keras_robust.models.probabilities import inverse_activation
from keras_robust.models.random_state import own_noise
from keras_robust.models.softmax_end import ends_in_softmax
from keras_robust.models.structures import only_input
from keras_robust.models.structures import single
from keras_robust.models.tracing_errors import tracing_error_context

_NO_PROBABILITIES = (
    "The loss takes probabilities, but the outputs of the model do not sum to 1, or leave [0, 1]. "
    "Use a loss with from_logits=True, or end the model with a softmax (one output: a sigmoid). "
    "Received: outputs from {} to {}"
)
_NO_LOGITS = (
    "The loss takes logits, but the outputs of the model are probabilities: every row sums to 1. "
    "Use from_logits=False, or remove the softmax. Received: outputs from {} to {}"
)
_TRAIN_OTHERS = (
    'For regression, several outputs, sequences or multi-label outputs use attack=PGD(loss="'
    'compiled") and the objective "adversarial" or "mixed". '
)
JUDGE_OTHERS = (
    "Robust accuracy, certificates and guarded exports need a single classification. With "
    "several outputs, judge one after the other: `keras.Model(model.input, model.outputs[0])`. "
    "For regression, sequences or multi-label outputs, measure the compiled loss under attack, "
    '`model.evaluate(kr.attacks.PGD(loss="compiled")(model, x, y, threat_model), y)`, and export '
    "with `model.export`. "
)


class Classifier:
    """A Keras model, or any callable, as a function that returns logits.

    If the compiled loss takes logits, the outputs of the model are logits. Otherwise the logits are
    the inputs of the final softmax or sigmoid, so that a saturated softmax does not hide the
    gradient. A single logit `z` (binary models) becomes the two logits `[0, z]`, which have the
    same cross-entropy. The outputs of a model that is not compiled are logits unless a Keras
    softmax or sigmoid computed them.

    Attributes: `num_classes`, int, or `None` before the first logits; `has_unknown_column`, bool,
    whether the classifier has assumed that a single output is a logit although nothing says so;
    `attack_dtype`, the compute dtype of the float32 layers in `attack_scope`, or `None`.

    Args:
        model: a `keras.Model`, or a callable that maps a batch to outputs.
        pack: function that makes the inputs of the model, such as `{"image": x}`, from the tensor
            `x` that is attacked. Defaults to the form in which the model was built.
    """

    def __init__(self, model, pack=None):
        self.model = backend.as_backend_function(model)
        self.pack = pack or _pack_for(model)
        self.num_classes = None
        self.has_unknown_column = False
        self.attack_dtype = None
        self._state, self._start = {}, ()
        self.loss_name, self.from_logits, self.is_known_loss = read_loss(model)

    def __call__(self, x, training=False):
        """Returns the outputs of the model.

        Variables that a pass in inference mode assigns, such as the state of a recurrent layer, are
        restored afterwards.
        """
        inputs = self.pack(x)
        with backend.record_logits(self.model), tracing_error_context(self.model, inputs):
            if not isinstance(self.model, keras.Layer):
                return self.model(inputs)
            with error_context("The model cannot run on these inputs", inputs=inputs):
                check_batch_size(self.model, _num_rows(inputs))
                if training:
                    for variable, value in self._start:
                        variable.assign(value)
                    return self._run(inputs, True)
                if not self.model.built:
                    # The pass creates variables, and there is nothing to restore.
                    return self._run(inputs, False)
                with backend.inference_pass() as put_back:
                    outputs = self._run(inputs, False)
                self._state.update((id(variable), variable) for variable in put_back)
                return outputs

    def _run(self, inputs, training):
        if _takes_training(self.model):
            return self.model(inputs, training=training)
        return self.model(inputs)

    @property
    def state(self):
        """The variables, except seeds, that passes in inference mode assigned and restored."""
        return list(self._state.values())

    def note_start(self):
        """Makes every later pass in training mode start from the present values of `state`.

        All passes of a train step are over the same examples, so that all of them must continue
        from the state after the previous batch.
        """
        if not self._start:
            self._start = [(variable, ops.copy(variable.value)) for variable in self.state]

    @property
    def computes_in_float16(self):
        """Whether the model computes in float16, in which small gradients underflow."""
        return (current_dtype() or getattr(self.model, "compute_dtype", None)) == "float16"

    def with_attack_dtype(self, dtype):
        """Returns a copy whose float32 layers compute in `dtype` inside `attack_scope`.

        Args:
            dtype: `"bfloat16"`, `"float16"`, or `None` for the dtype of each layer.
        """
        other = copy.copy(self)
        other.attack_dtype = dtype
        return other

    @contextlib.contextmanager
    def attack_scope(self, x):
        """A context for an attack on `x` in a train step, which runs faster there than elsewhere.

        Layers compute in `attack_dtype`, input gradients of convolutions are computed faster, and
        random layers draw other numbers than in the training.

        Raises:
            ValueError: if a layer cannot run in `attack_dtype`.
        """
        self._build(x)
        with own_noise(self.model), backend.fast_input_gradients(self.model):
            with self.dtype_scope(x, self.attack_dtype, "attack_dtype"):
                yield

    @contextlib.contextmanager
    def dtype_scope(self, x, dtype, argument="dtype"):
        """A context in which the float32 layers compute in `dtype`, see `compute_dtype_scope`.

        Args:
            x: a batch of inputs, which tells an error of the dtype from all others.
            dtype: `"bfloat16"`, `"float16"`, or `None` for the dtype of each layer.
            argument: str, the argument that chose the dtype, for the error.

        Raises:
            ValueError: if a layer cannot run in `dtype`.
        """
        if dtype is None:
            yield
            return
        self._build(x)
        try:
            with compute_dtype_scope(self.model, dtype):
                yield
        except Exception as error:
            # One forward pass in either dtype tells an error of the dtype from all others.
            if self._can_run(x, dtype) or not self._can_run(x, None):
                raise
            raise ValueError(
                f"The model cannot run in {dtype}: a layer has a fixed dtype. Give that layer "
                "autocast=False, so that it stays in float32 and casts its inputs itself, or use "
                f"{argument}=None. Received: {argument}={dtype!r} and the error {error}"
            ) from error

    def _build(self, x):
        """Builds the model in its own dtypes: a layer may store what it creates in another one."""
        if not getattr(self.model, "built", True):
            self(x)

    def _can_run(self, x, dtype):
        """Returns whether a forward pass on `x` works with the layers in a compute dtype."""
        try:
            with compute_dtype_scope(self.model, dtype):
                self(x)
        except Exception:
            return False
        return True

    @property
    def reduction(self):
        """How the compiled loss reduces the losses of the examples to one number."""
        loss = getattr(self.model, "loss", None)
        given = getattr(single(loss) if loss is not None else None, "reduction", None)
        return given if given in REDUCTIONS else "sum_over_batch_size"

    def is_classification(self, outputs, y=None):
        """Returns whether `outputs` are the logits or probabilities of one classification.

        Under a loss of Keras or of this package, the loss decides; a loss that is not one for
        classes is accepted if the model ends in a Keras softmax. Under a custom loss, a Keras
        softmax or sigmoid at the end decides; without one, rows of several scores need integer
        labels. If there are no labels, as in a prediction, rows of several scores are a
        classification.
        """
        outputs, y = single(outputs), single(y)
        # More axes are sequences or maps of classes, which have no single logits per example.
        if not hasattr(outputs, "shape") or len(outputs.shape) != 2:
            return False
        if self.is_known_loss:
            return self._is_known_classification(outputs)
        if not self.loss_name or backend.keras_logits(outputs) is not None:
            return True
        return outputs.shape[-1] != 1 and _can_be_class_indices(y)

    def _is_known_classification(self, outputs):
        """Returns whether `outputs` are a classification, under a loss of Keras or of ours."""
        if outputs.shape[-1] == 1:
            return self.loss_name in BINARY_LOSSES
        if "categorical" in self.loss_name or self.loss_name in OWN_LOSSES:
            return True
        # The outputs of a softmax are probabilities of classes under any loss.
        return backend.keras_logits(outputs) is not None and ends_in_softmax(self.model)

    def ignores(self, label):
        """Returns whether the compiled loss ignores examples with `label`; a custom loss may."""
        if not self.is_known_loss:
            return True
        return getattr(single(self.model.loss), "ignore_class", None) == label

    def to_logits(self, outputs, y=None):
        """Returns float32 logits `(batch_size, num_classes)` from the outputs of the model."""
        self.refuse_others(outputs, y)
        outputs = single(outputs)
        logits = backend.keras_logits(outputs)
        if logits is not None and self.from_logits:
            raise ValueError(
                "The model ends in a softmax or sigmoid, but its loss was built with "
                "from_logits=True, so that training and attack see the wrong loss. Use "
                "from_logits=False, or remove the last activation. "
                f"Received: loss={self.loss_name!r} with from_logits=True"
            )
        if logits is None:
            self.has_unknown_column = outputs.shape[-1] == 1 and not self.loss_name
            logits = outputs if self.from_logits is not False else inverse_activation(outputs)
        logits = ops.cast(logits, "float32")
        if logits.shape[-1] == 1:
            logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
        self.num_classes = logits.shape[-1]
        return logits

    def refuse_others(self, outputs, y=None, advice=_TRAIN_OTHERS):
        """Raises ValueError with `advice` unless the outputs are those of one classification."""
        if not self.is_classification(outputs, y):
            raise ValueError(
                "Expected one classification output: logits or probabilities of shape "
                f"(batch_size, num_classes). {advice}Received: outputs {_describe(outputs)} under "
                f"the loss {self.loss_name or None!r}"
            )

    def to_outputs(self, logits, outputs):
        """Returns the outputs that the model would have for `logits`, in the form of `outputs`."""
        form = single(outputs)
        is_column = form.shape[-1] == 1
        if is_column:
            # The logit of a binary model is the difference of its two logits.
            logits = logits[:, 1:] - logits[:, :1]
        if backend.keras_logits(form) is not None or self.from_logits is False:
            activation = keras.activations.sigmoid if is_column else keras.activations.softmax
            logits = activation(logits)
        return keras.tree.pack_sequence_as(outputs, [logits])

    def logits_mismatch(self, outputs, y=None):
        """Detects a mismatch of logits and probabilities between the loss and the outputs.

        Returns:
            A pair of a scalar bool tensor, whether there is a mismatch, and an error message with
            two places for the smallest and the largest output; `None` if there can be no mismatch.
        """
        if not self.is_classification(outputs, y):
            return None
        outputs = single(outputs)
        is_column = outputs.shape[-1] == 1
        if backend.keras_logits(outputs) is not None or (
            is_column and self.from_logits is not False
        ):
            return None
        outputs = ops.cast(outputs, "float32")
        if is_column:
            outside = ops.any(ops.logical_or(outputs < 0.0, outputs > 1.0))
            return outside, _NO_PROBABILITIES
        are_rows = are_probabilities(outputs)
        if self.from_logits is False:
            return ops.logical_not(are_rows), _NO_PROBABILITIES
        # A replica may have no examples of the last batch, and `are_rows` is then true.
        return ops.logical_and(are_rows, ops.shape(outputs)[0] > 0), _NO_LOGITS

    def logits(self, x, y=None):
        """Returns float32 logits `(batch_size, num_classes)`, in inference mode."""
        logits = self.to_logits(self(x), y)
        if logits.shape[0] is None and x.shape[0] is not None:
            # py_function loses the batch dimension, which tf.while_loop needs.
            return ops.reshape(logits, (x.shape[0], logits.shape[-1]))
        return logits

    def compiled_loss(self, x, y):
        """Returns the compiled loss of the batch without regularizers, shape `(batch_size,)`.

        Every entry is the loss of the whole batch. Regularizers do not depend on the inputs, so
        that an attack leaves them out.
        """
        return ops.ones((ops.shape(x)[0],), "float32") * self.loss_of(self(x), x, y)

    def loss_of(self, outputs, x, y, sample_weight=None):
        """Returns the compiled loss of outputs for `x`, a scalar, without regularizers."""
        failing = error_context("The compiled loss cannot be computed", outputs=outputs, labels=y)
        # Attacks call this, and must not change the logged losses.
        with without_output_metrics(self.model), with_regularisers(self.model, []), failing:
            loss = self.model.compute_loss(
                x=self.pack(x), y=y, y_pred=outputs, sample_weight=sample_weight
            )
        return ops.cast(loss, "float32")


def _pack_for(model):
    """Returns a function that makes the inputs of a model built on a dict or list of one entry."""
    try:
        structure = model.input
    # A subclassed model may have no `input`, or none before its first call.
    except (AttributeError, ValueError):
        return lambda x: x
    if not keras.tree.is_nested(structure) or len(keras.tree.flatten(structure)) != 1:
        return lambda x: x
    return lambda x: keras.tree.pack_sequence_as(structure, [x])


def expose_input(model, inputs):
    """Returns the only input tensor, as floats, and a `Classifier` that takes this tensor."""
    x = ops.cast(only_input(inputs), "float32")
    if not keras.tree.is_nested(inputs):
        return x, Classifier(model)
    return x, Classifier(model, lambda leaf: keras.tree.pack_sequence_as(inputs, [leaf]))


def _num_rows(inputs):
    """Returns the size of a batch, or `None` if it is not known."""
    leaf = next(leaf for leaf in keras.tree.flatten(inputs) if leaf is not None)
    return leaf.shape[0] if getattr(leaf, "shape", ()) else None


def _takes_training(model):
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters


def _can_be_class_indices(y):
    if y is None:
        return True
    # Floats may be the targets of a regression.
    if not hasattr(y, "shape") or "int" not in str(y.dtype):
        return False
    return len(y.shape) == 1 or (len(y.shape) == 2 and y.shape[-1] == 1)


def _describe(outputs):
    leaves = keras.tree.flatten(outputs)
    return [(tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype)) for leaf in leaves]
