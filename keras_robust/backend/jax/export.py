"""JAX: SavedModels of functions of tensors, which TensorFlow can serve."""

import logging
import string

import jax
import keras
import numpy as np
import tensorflow as tf
from jax.experimental import jax2tf

from keras_robust.backend.jax.ops import collected_requirements
from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.tensorflow.ops import require_all

# Export for CPU and CUDA, whatever device trained the model.
_PLATFORMS = ("cpu", "cuda")

# These warnings do not apply: the weights are variables, and a served model needs no second
# derivatives.
_NO_CONCERN = "call_tf works best with", "(__inference_internal_grad_fn_"


def _is_of_concern(record):
    message = record.getMessage()
    return not any(text in message for text in _NO_CONCERN)


logging.getLogger("absl").addFilter(_is_of_concern)


class ExportArchive:
    """Writes TensorFlow functions into a SavedModel; they call the model, converted from JAX.

    The archive of Keras translates a whole endpoint from JAX, so that the endpoint cannot contain
    operations of TensorFlow, such as decoding pictures.

    Args:
        model: built `keras.Model`.
    """

    def __init__(self, model):
        self._module = tf.Module()
        self._signatures = {}
        self._variables = list(model.variables)
        self._module.variables_of_model = [
            tf.Variable(np.asarray(variable), trainable=variable.trainable, name=variable.name)
            for variable in self._variables
        ]

    def in_graph(self, function):
        """Converts a function of JAX tensors to a function of TensorFlow tensors.

        The conditions of `require_all` are checked in the converted function. Values that the
        function assigns to variables of the model are kept, as on TensorFlow.
        """
        messages, places = [], []

        def pure(values, tensors):
            pairs = zip(self._variables, values, strict=True)
            with collected_requirements() as required, Scope(pairs) as scope:
                result = function(*tensors)
            assigned = {id(variable) for variable in scope.assigned}
            messages[:] = [message for message, _ in required]
            places[:] = [k for k, v in enumerate(self._variables) if id(v) in assigned]
            new = scope.values_of([self._variables[place] for place in places])
            return result, [holds for _, holds in required], new

        def run(*tensors):
            shapes = [None, _symbolic_shapes([tensor.shape for tensor in tensors])]
            held = [variable.read_value() for variable in self._module.variables_of_model]
            translated = jax2tf.convert(
                pure, polymorphic_shapes=shapes, native_serialization_platforms=_PLATFORMS
            )
            result, holds, new = translated(held, list(tensors))
            for message, condition in zip(messages, holds, strict=True):
                result = keras.tree.map_structure(
                    lambda leaf, m=message, c=condition: require_all(c, m, leaf), result
                )
            for place, value in zip(places, new, strict=True):
                self._module.variables_of_model[place].assign(value)
            return result

        return tf.function(run, autograph=False)

    def add_endpoint(self, name, function, specs):
        """Adds a function of TensorFlow tensors that returns a dict of tensors."""
        compiled = tf.function(function, input_signature=list(specs), autograph=False)
        self._signatures[name] = compiled
        setattr(self._module, name, compiled)

    def write_out(self, path, verbose=False):
        """Writes the SavedModel to the folder `path`."""
        # Functions translated from JAX have custom gradients.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
        tf.saved_model.save(self._module, path, signatures=self._signatures, options=options)


def from_tf_function(function):
    """Converts a function of TensorFlow tensors to a function of JAX tensors.

    Every argument and every result must have one row per example: a function traced for any number
    of rows does not report how many it returns, and JAX needs to know.
    """

    def run(*tensors):
        size = len(jax.tree.leaves(tensors)[0])

        def sized(*tensors):
            results = function(*tensors)
            for leaf in tf.nest.flatten(results):
                leaf.set_shape([size, *leaf.shape[1:]])
            return results

        return jax2tf.call_tf(sized)(*tensors)

    return run


def _symbolic_shapes(shapes):
    """Returns shapes in the notation of JAX, with names for unknown lengths."""
    names = iter(string.ascii_lowercase)

    def written(shape):
        # The first axis of every input is the batch.
        axes = ["batch" if n is None and not place else n for place, n in enumerate(shape)]
        return "(" + "".join(f"{next(names) if n is None else n}, " for n in axes) + ")"

    return [written(shape) for shape in shapes]
