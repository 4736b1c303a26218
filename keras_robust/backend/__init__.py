"""The backend: all code that depends on the framework under Keras, one folder per framework."""

import keras

if keras.backend.backend() not in ("tensorflow", "jax"):
    raise ImportError(
        "keras_robust runs on the TensorFlow and JAX backends of Keras. Set the environment "
        "variable KERAS_BACKEND to tensorflow or jax before Keras is imported. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.keras_internals import keras_logits
from keras_robust.backend.keras_internals import layers_of
from keras_robust.backend.keras_internals import set_keras_logits
from keras_robust.backend.requirement import Requirement

if keras.backend.backend() == "tensorflow":
    from keras_robust.backend.tensorflow import ops as framework
    from keras_robust.backend.tensorflow.convolution import fast_input_gradients
    from keras_robust.backend.tensorflow.functions import as_backend_function
    from keras_robust.backend.tensorflow.hardware import fast_dtype
    from keras_robust.backend.tensorflow.passes import forgotten_pass
    from keras_robust.backend.tensorflow.passes import inference_pass
    from keras_robust.backend.tensorflow.passes import state_of
else:
    from keras_robust.backend.jax import ops as framework
    from keras_robust.backend.jax.functions import as_backend_function
    from keras_robust.backend.jax.hardware import fast_dtype
    from keras_robust.backend.jax.hardware import fast_input_gradients
    from keras_robust.backend.jax.passes import forgotten_pass
    from keras_robust.backend.jax.passes import inference_pass
    from keras_robust.backend.jax.passes import state_of

IS_JAX = keras.backend.backend() == "jax"
END_OF_DATA = framework.END_OF_DATA
RAISES_IN_GRAPHS = framework.RAISES_IN_GRAPHS
compile_function = framework.compile_function
cond = framework.cond
double_precision = framework.double_precision
fold_in = framework.fold_in
fori_loop = framework.fori_loop
host_function = framework.host_function
is_symbolic = framework.is_symbolic
normal = framework.normal
record_logits = framework.record_logits
refuse_distribution = framework.refuse_distribution
repeat = framework.repeat
require_all = framework.require_all
required_message = framework.required_message
trace_output = framework.trace_output
uniform = framework.uniform
value_and_input_gradient = framework.value_and_input_gradient
variable_scope = framework.variable_scope
while_loop = framework.while_loop

__all__ = [
    "END_OF_DATA",
    "IS_JAX",
    "NoGradientError",
    "RAISES_IN_GRAPHS",
    "Requirement",
    "as_backend_function",
    "compile_function",
    "cond",
    "double_precision",
    "fast_dtype",
    "fast_input_gradients",
    "fold_in",
    "forgotten_pass",
    "fori_loop",
    "host_function",
    "inference_pass",
    "is_symbolic",
    "keras_logits",
    "layers_of",
    "normal",
    "record_logits",
    "refuse_distribution",
    "repeat",
    "require_all",
    "required_message",
    "set_keras_logits",
    "state_of",
    "trace_output",
    "uniform",
    "value_and_input_gradient",
    "variable_scope",
    "while_loop",
]
