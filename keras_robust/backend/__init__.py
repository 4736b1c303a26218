"""The seam: everything that differs between the frameworks under Keras, files for each."""

import keras

if keras.backend.backend() not in ("tensorflow", "jax"):
    raise ImportError(
        "keras_robust runs on the TensorFlow and JAX backends of Keras. Set the environment "
        "variable KERAS_BACKEND to tensorflow or jax before Keras is imported. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

from keras_robust.backend.batch import Batch
from keras_robust.backend.classifier import Classifier
from keras_robust.backend.classifier import expose_input
from keras_robust.backend.classifier import rows_of_probabilities
from keras_robust.backend.classifier import single
from keras_robust.backend.errors import NoGradientError
from keras_robust.backend.errors import told_of_inputs
from keras_robust.backend.fixed_batch import check_batch_size
from keras_robust.backend.keras_logits import keras_logits
from keras_robust.backend.keras_logits import set_keras_logits
from keras_robust.backend.layer_classifier import LayerClassifier
from keras_robust.backend.model_layers import layers_of
from keras_robust.backend.model_layers import rejecting_layers
from keras_robust.backend.predictions import predict_clean_logits
from keras_robust.backend.predictions import predict_logits
from keras_robust.backend.preprocessor import refuse_preprocessor
from keras_robust.backend.random_state import own_noise
from keras_robust.backend.random_state import with_own_noise
from keras_robust.backend.steps_taken import read_steps
from keras_robust.backend.stream import Stream
from keras_robust.backend.structures import batches_of
from keras_robust.backend.structures import only_input
from keras_robust.backend.structures import refuse_sparse
from keras_robust.backend.structures import size_of
from keras_robust.backend.structures import take
from keras_robust.backend.trainer import Result

if keras.backend.backend() == "tensorflow":
    from keras_robust.backend import tensorflow as framework
    from keras_robust.backend.tensorflow_archive import Archive
    from keras_robust.backend.tensorflow_archive import from_graph
    from keras_robust.backend.tensorflow_archive import own_function
    from keras_robust.backend.tensorflow_first_layer import fast_first_layers
    from keras_robust.backend.tensorflow_hardware import fast_dtype
    from keras_robust.backend.tensorflow_passes import forgotten_pass
    from keras_robust.backend.tensorflow_passes import inference_pass
    from keras_robust.backend.tensorflow_passes import state_of
    from keras_robust.backend.tensorflow_train_step import TrainStep
    from keras_robust.backend.tensorflow_trainer import Trainer
else:
    from keras_robust.backend import jax as framework
    from keras_robust.backend.jax_archive import Archive
    from keras_robust.backend.jax_archive import from_graph
    from keras_robust.backend.jax_archive import own_function
    from keras_robust.backend.jax_hardware import fast_dtype
    from keras_robust.backend.jax_hardware import fast_first_layers
    from keras_robust.backend.jax_passes import forgotten_pass
    from keras_robust.backend.jax_passes import inference_pass
    from keras_robust.backend.jax_passes import state_of
    from keras_robust.backend.jax_train_step import TrainStep
    from keras_robust.backend.jax_trainer import Trainer

END_OF_DATA = framework.END_OF_DATA
compile_function = framework.compile_function
cond = framework.cond
double_precision = framework.double_precision
fold_in = framework.fold_in
fori_loop = framework.fori_loop
host_function = framework.host_function
is_symbolic = framework.is_symbolic
normal = framework.normal
noted_logits = framework.noted_logits
refuse_distribution = framework.refuse_distribution
refuse_guards = framework.refuse_guards
repeat = framework.repeat
require_all = framework.require_all
required_message = framework.required_message
trace_output = framework.trace_output
uniform = framework.uniform
value_and_input_gradient = framework.value_and_input_gradient
variable_scope = framework.variable_scope
while_loop = framework.while_loop

__all__ = [
    "Archive",
    "Batch",
    "Classifier",
    "END_OF_DATA",
    "LayerClassifier",
    "NoGradientError",
    "Result",
    "Stream",
    "TrainStep",
    "Trainer",
    "batches_of",
    "compile_function",
    "check_batch_size",
    "cond",
    "double_precision",
    "expose_input",
    "fast_dtype",
    "fast_first_layers",
    "fold_in",
    "fori_loop",
    "forgotten_pass",
    "from_graph",
    "host_function",
    "inference_pass",
    "is_symbolic",
    "keras_logits",
    "layers_of",
    "normal",
    "noted_logits",
    "only_input",
    "own_function",
    "own_noise",
    "predict_clean_logits",
    "predict_logits",
    "read_steps",
    "refuse_distribution",
    "refuse_guards",
    "refuse_preprocessor",
    "refuse_sparse",
    "rejecting_layers",
    "repeat",
    "require_all",
    "required_message",
    "rows_of_probabilities",
    "set_keras_logits",
    "single",
    "size_of",
    "take",
    "state_of",
    "told_of_inputs",
    "trace_output",
    "uniform",
    "value_and_input_gradient",
    "variable_scope",
    "while_loop",
    "with_own_noise",
]
