"""The user's model seen as a classifier: where its logits are, and whether it is one."""

import inspect
import re

import keras
from keras import ops

from keras_robust import backend
from keras_robust.backend.keras_internals import without_output_metrics
from keras_robust.backend.keras_internals import without_regularisers
from keras_robust.models.batch_size import check_batch_size
from keras_robust.models.dtypes import compute_dtype_scope
from keras_robust.models.dtypes import current_dtype
from keras_robust.models.error_context import error_context
from keras_robust.models.random_state import own_noise
from keras_robust.models.softmax_end import ends_in_softmax
from keras_robust.models.structures import only_input
from keras_robust.models.tracing_errors import tracing_error_context

_TINY = 1e-7
# What bfloat16 leaves of the sum of probabilities, of which each has an error of up to 2**-9.
_SUM_SLACK = 4e-3
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
    "Robust accuracy, certificates and guarded exports are about one classification. Of several "
    "outputs take one after the other: `keras.Model(model.input, model.outputs[0])`. For "
    "regression, sequences or multi-label outputs measure the compiled loss under attack, "
    '`model.evaluate(kr.attacks.PGD(loss="compiled")(model, x, y, threat_model), y)`, and export '
    "with `model.export`. "
)
_REDUCTIONS = ("sum", "mean", "mean_with_sample_weight", "sum_over_batch_size")
_BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "hinge", "squared_hinge")
# Those of this package that take labels and logits.
OWN_LOSSES = ("dlr", "margin", "soft_margin", "temperature_cross_entropy")


class Classifier:
    """A Keras model, or any callable, that gives logits.

    Logits come from the compiled loss if it takes logits, else from in front of the final softmax
    or sigmoid, so that a saturated softmax hides no gradient. A single logit `z` (binary models)
    becomes the two logits `[0, z]`, which have the same cross-entropy. The outputs of a model that
    is not compiled are logits unless a Keras softmax or sigmoid made them.

    Attributes: `num_classes`, int, once it has given logits, else `None`; `has_unknown_column`,
    whether it has then read one column as a logit of which nothing says that it is one.

    Args:
        model: a `keras.Model`, or a callable that maps a batch to outputs.
        pack: function that makes the inputs of the model, such as `{"image": x}`, from the tensor
            `x` that is attacked. Defaults to the form in which the model was built.
    """

    def __init__(self, model, pack=None):
        self.model = backend.as_backend_function(model)
        self.pack = pack or _pack_for(model)
        self.num_calls = 0
        self.num_classes = None
        self.has_unknown_column = False
        self.attack_dtype = None
        self._state, self._start = {}, ()
        self.loss_name, self.from_logits, self.is_known_loss = _read_loss(model)

    def __call__(self, x, training=False):
        """Returns the outputs of the model.

        What a pass in inference mode assigns, such as the state of a recurrent layer, is put back.
        """
        self.num_calls += 1
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
                    # Variables that are made in the pass stay as they are.
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
        """The variables that passes in inference mode would have changed so far, without seeds."""
        return list(self._state.values())

    def note_start(self):
        """Has every pass in training mode from now on start from the state of this moment.

        All passes of a train step are on the same examples, which follow on those of the batch
        before.
        """
        if not self._start:
            self._start = [(variable, ops.copy(variable.value)) for variable in self.state]

    @property
    def computes_in_float16(self):
        """Whether small gradients of the model underflow."""
        return (current_dtype() or getattr(self.model, "compute_dtype", None)) == "float16"

    def under_attack(self, function, x):
        """Returns `function()`, which attacks `x`, at the speed that training asks for.

        Within, layers compute in `attack_dtype`, and gradients at images take a shorter way.
        """
        if not getattr(self.model, "built", True):
            # A layer might keep for good what it makes in another dtype than its own.
            self(x)
        with own_noise(self.model), backend.fast_input_gradients(self.model):
            return function() if self.attack_dtype is None else self._in_attack_dtype(function)

    def _in_attack_dtype(self, function):
        try:
            with compute_dtype_scope(self.model, self.attack_dtype):
                return function()
        except Exception as error:
            # What fails in any dtype fails here again.
            function()
            raise ValueError(
                f"The model cannot run in {self.attack_dtype}: a layer fixes its dtype. Give that "
                "layer autocast=False, so that it stays in float32 and sees to the dtype of its "
                "inputs itself, or use attack_dtype=None. "
                f"Received: attack_dtype={self.attack_dtype!r} and the error {error}"
            ) from error

    @property
    def reduction(self):
        """How the compiled loss makes one number of those of the examples."""
        loss = getattr(self.model, "loss", None)
        given = getattr(single(loss) if loss is not None else None, "reduction", None)
        return given if given in _REDUCTIONS else "sum_over_batch_size"

    def is_classification(self, outputs, y=None):
        """Whether `outputs` are the logits or probabilities of one classification.

        Told by the compiled loss, and under any other one by a Keras softmax at the end; under a
        loss that is neither Keras's nor ours also by a sigmoid there, or by integer labels for rows
        of several scores; where there are no labels, as in a prediction, such rows are taken for a
        classification.
        """
        outputs, y = single(outputs), single(y)
        if not hasattr(outputs, "shape") or len(outputs.shape) != 2:
            return False
        is_column = outputs.shape[-1] == 1
        if self.is_known_loss:
            if is_column:
                return self.loss_name in _BINARY_LOSSES
            if "categorical" in self.loss_name or self.loss_name in OWN_LOSSES:
                return True
            # Whatever the loss makes of them, the outputs are probabilities of classes.
            return backend.keras_logits(outputs) is not None and ends_in_softmax(self.model)
        if not self.loss_name or backend.keras_logits(outputs) is not None:
            return True
        return not is_column and _can_be_class_indices(y)

    def ignores(self, label):
        """Whether the compiled loss leaves out examples with `label`, as one unknown to us may."""
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
            logits = outputs if self.from_logits is not False else _inverse_activation(outputs)
        logits = ops.cast(logits, "float32")
        if logits.shape[-1] == 1:
            logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
        self.num_classes = logits.shape[-1]
        return logits

    def refuse_others(self, outputs, y=None, advice=_TRAIN_OTHERS):
        """Raises `ValueError` with `advice` unless the outputs are those of one classification."""
        if not self.is_classification(outputs, y):
            raise ValueError(
                "Expected one classification output: logits or probabilities of shape "
                f"(batch_size, num_classes). {advice}Received: outputs {_describe(outputs)} under "
                f"the loss {self.loss_name or None!r}"
            )

    def to_outputs(self, logits, outputs):
        """Returns what the model would return for `logits`, in the form of `outputs`."""
        form = single(outputs)
        is_column = form.shape[-1] == 1
        if is_column:
            logits = logits[:, 1:] - logits[:, :1]
        if backend.keras_logits(form) is not None or self.from_logits is False:
            activation = keras.activations.sigmoid if is_column else keras.activations.softmax
            logits = activation(logits)
        return keras.tree.pack_sequence_as(outputs, [logits])

    def logits_mismatch(self, outputs, y=None):
        """Tells logits taken for probabilities, and probabilities taken for logits.

        Returns:
            A scalar bool tensor, whether it is so for all of `outputs`, and a message with two
            places for their smallest and largest value; or `None` if nothing can be wrong.
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
        # A replica may have no example of the last batch.
        return ops.logical_and(are_rows, ops.shape(outputs)[0] > 0), _NO_LOGITS

    def logits(self, x, y=None):
        """Returns float32 logits `(batch_size, num_classes)`, without training behaviour."""
        logits = self.to_logits(self(x), y)
        if logits.shape[0] is None and x.shape[0] is not None:
            # A model that leaves TensorFlow seldom says how many rows it returns. Loops ask.
            return ops.reshape(logits, (x.shape[0], logits.shape[-1]))
        return logits

    def compiled_loss(self, x, y):
        """Returns the compiled loss of the batch, repeated with shape `(batch_size,)`.

        Without regularisers, which are no business of an attacker.
        """
        return ops.ones((ops.shape(x)[0],), "float32") * self.loss_of(self(x), x, y)

    def loss_of(self, outputs, x, y, sample_weight=None):
        """Returns the compiled loss of outputs for `x`, a scalar, without regularisers."""
        told = {"outputs": outputs, "labels": y}
        failing = error_context("The compiled loss cannot be computed", **told)
        with without_output_metrics(self.model), without_regularisers(self.model), failing:
            loss = self.model.compute_loss(
                x=self.pack(x), y=y, y_pred=outputs, sample_weight=sample_weight
            )
        return ops.cast(loss, "float32")


def _pack_for(model):
    """Returns what makes the inputs of a model that was built on a dict or list with one entry."""
    try:
        structure = model.input
    except (AttributeError, ValueError):
        return lambda x: x
    if not keras.tree.is_nested(structure) or len(keras.tree.flatten(structure)) != 1:
        return lambda x: x
    return lambda x: keras.tree.pack_sequence_as(structure, [x])


def expose_input(model, inputs):
    """Returns the one tensor in the inputs, as floats, and the model as a `Classifier` of it."""
    x = ops.cast(only_input(inputs), "float32")
    if not keras.tree.is_nested(inputs):
        return x, Classifier(model)
    return x, Classifier(model, lambda leaf: keras.tree.pack_sequence_as(inputs, [leaf]))


def single(structure):
    """Returns the one tensor in `structure`, such as `{"label": y}`, or else `structure` itself."""
    leaves = keras.tree.flatten(structure)
    return leaves[0] if len(leaves) == 1 else structure


def _num_rows(inputs):
    """Returns the size of a batch, or `None` if it is not known."""
    leaf = next(leaf for leaf in keras.tree.flatten(inputs) if leaf is not None)
    return leaf.shape[0] if getattr(leaf, "shape", ()) else None


def _takes_training(model):
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters


def _read_loss(model):
    """Returns the snake-case name of the compiled loss (or ""), `from_logits`, and if known."""
    loss = getattr(model, "loss", None) if isinstance(model, keras.Model) else None
    losses = [item for item in keras.tree.flatten(loss) if item is not None]
    if not losses:
        return "", None, False
    if len(losses) > 1:
        return "several", None, False
    loss = keras.losses.get(losses[0])
    name = name_of_loss(loss)
    module = getattr(loss, "__module__", type(loss).__module__)
    if not module.startswith("keras."):
        is_own = module.startswith("keras_robust.losses.") and name in OWN_LOSSES
        return name, is_own or None, is_own
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    takes_logits = "crossentropy" in name
    return name, bool(config.get("from_logits", False)) if takes_logits else None, True


def are_probabilities(outputs):
    """Returns a scalar bool tensor, whether all rows of float32 `outputs` are probabilities."""
    return ops.all(rows_of_probabilities(outputs))


def rows_of_probabilities(outputs):
    """Returns which rows of float32 `outputs` are probabilities, of half precision too."""
    sums = ops.sum(outputs, axis=-1)
    return ops.logical_and(ops.all(outputs >= 0.0, axis=-1), ops.abs(sums - 1.0) < _SUM_SLACK)


def name_of_loss(loss):
    """Returns the snake-case name of the function or class of a loss."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _can_be_class_indices(y):
    if y is None:
        return True
    if not hasattr(y, "shape") or "int" not in str(y.dtype):
        return False
    return len(y.shape) == 1 or (len(y.shape) == 2 and y.shape[-1] == 1)


def _inverse_activation(outputs):
    """Logits from probabilities; saturates where a probability is 0 or 1 in float32."""
    outputs = ops.clip(ops.cast(outputs, "float32"), _TINY, 1.0 - _TINY)
    if outputs.shape[-1] == 1:
        return ops.log(outputs) - ops.log(1.0 - outputs)
    return ops.log(outputs)


def _describe(outputs):
    leaves = keras.tree.flatten(outputs)
    return [(tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype)) for leaf in leaves]
