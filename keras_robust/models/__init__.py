"""The model of the user as a classifier: logits, dtypes, random states, and refused models."""

from keras_robust.models.batch_size import check_batch_size
from keras_robust.models.classifier import Classifier
from keras_robust.models.classifier import expose_input
from keras_robust.models.guards import refuse_guards
from keras_robust.models.guards import rejecting_layers
from keras_robust.models.input_errors import input_error_context
from keras_robust.models.input_errors import refuse_integers
from keras_robust.models.layer_classifier import LayerClassifier
from keras_robust.models.predictions import predict_clean
from keras_robust.models.predictions import predict_clean_logits
from keras_robust.models.predictions import predict_logits
from keras_robust.models.preprocessor import refuse_preprocessor
from keras_robust.models.probabilities import rows_of_probabilities
from keras_robust.models.random_state import own_noise
from keras_robust.models.random_state import with_own_noise
from keras_robust.models.structures import batches_of
from keras_robust.models.structures import filled_rows
from keras_robust.models.structures import only_input
from keras_robust.models.structures import refuse_sparse
from keras_robust.models.structures import single
from keras_robust.models.structures import size_of
from keras_robust.models.structures import take

__all__ = [
    "Classifier",
    "LayerClassifier",
    "batches_of",
    "check_batch_size",
    "expose_input",
    "filled_rows",
    "only_input",
    "own_noise",
    "predict_clean",
    "predict_clean_logits",
    "predict_logits",
    "refuse_guards",
    "refuse_integers",
    "refuse_preprocessor",
    "refuse_sparse",
    "rejecting_layers",
    "rows_of_probabilities",
    "single",
    "size_of",
    "take",
    "input_error_context",
    "with_own_noise",
]
