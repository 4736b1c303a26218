"""The seam: everything that differs between the frameworks under Keras, one file for each."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_robust runs on the TensorFlow backend of Keras. Set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )

from keras_robust.backend.batch import Batch
from keras_robust.backend.classifier import Classifier
from keras_robust.backend.classifier import expose_input
from keras_robust.backend.classifier import predict_logits
from keras_robust.backend.classifier import single
from keras_robust.backend.layer_classifier import LayerClassifier
from keras_robust.backend.stream import Stream
from keras_robust.backend.structures import batches_of
from keras_robust.backend.structures import only_input
from keras_robust.backend.structures import size_of
from keras_robust.backend.structures import take
from keras_robust.backend.tensorflow import END_OF_DATA
from keras_robust.backend.tensorflow import NoGradientError
from keras_robust.backend.tensorflow import compile_function
from keras_robust.backend.tensorflow import fold_in
from keras_robust.backend.tensorflow import host_function
from keras_robust.backend.tensorflow import is_symbolic
from keras_robust.backend.tensorflow import keras_logits
from keras_robust.backend.tensorflow import normal
from keras_robust.backend.tensorflow import repeat
from keras_robust.backend.tensorflow import require
from keras_robust.backend.tensorflow import require_all
from keras_robust.backend.tensorflow import required_message
from keras_robust.backend.tensorflow import trace_output
from keras_robust.backend.tensorflow import uniform
from keras_robust.backend.tensorflow import value_and_input_gradient
from keras_robust.backend.tensorflow_first_layer import fast_first_layers
from keras_robust.backend.tensorflow_hardware import fast_dtype
from keras_robust.backend.tensorflow_train_step import TrainStep
from keras_robust.backend.tensorflow_trainer import Result
from keras_robust.backend.tensorflow_trainer import Trainer

__all__ = [
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
    "expose_input",
    "fast_dtype",
    "fast_first_layers",
    "fold_in",
    "host_function",
    "is_symbolic",
    "keras_logits",
    "normal",
    "only_input",
    "predict_logits",
    "repeat",
    "require",
    "require_all",
    "required_message",
    "single",
    "size_of",
    "take",
    "trace_output",
    "uniform",
    "value_and_input_gradient",
]
