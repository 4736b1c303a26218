import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust import backend
from keras_robust import losses
from keras_robust import models
from tests.support import backends
from tests.support import black_box
from tests.support import refusals
from tests.support import small_models

WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]], "float32")
BIAS = np.array([0.1, -0.4, 0.2], "float32")
X = np.array([[0.2, 0.9], [0.8, 0.1], [0.5, 0.5]], "float32")
LOGITS = X @ WEIGHTS + BIAS
Z = LOGITS[:, :1]
BINARY = np.concatenate([np.zeros_like(Z), Z], axis=-1)
SPARSE = keras.losses.SparseCategoricalCrossentropy
CROSS_ENTROPY = keras.losses.CategoricalCrossentropy
BINARY_LOSS = keras.losses.BinaryCrossentropy


def _model(*tail, classes=3, activation=None, loss=None, **head):
    dense = keras.layers.Dense(classes, activation=activation, **head)
    model = keras.Sequential([keras.Input((2,)), dense, *tail])
    dense.set_weights([WEIGHTS[:, :classes], BIAS[:classes]])
    if loss is not None:
        model.compile("sgd", loss)
    return model


def _logits(model, y=None):
    return np.asarray(models.Classifier(model).logits(keras.ops.convert_to_tensor(X), y))


def _custom_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


@pytest.mark.parametrize(
    "loss",
    [
        SPARSE(from_logits=True),
        CROSS_ENTROPY(from_logits=True),
        keras.losses.CategoricalFocalCrossentropy(from_logits=True),
        keras.losses.CategoricalHinge(),
        None,
    ],
)
def test_outputs_that_are_logits(loss):
    np.testing.assert_allclose(_logits(_model(loss=loss)), LOGITS, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        SPARSE(),
        CROSS_ENTROPY(),
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        "categorical_focal_crossentropy",
        None,
    ],
)
def test_logits_in_front_of_a_softmax(loss):
    model = _model(activation="softmax", loss=loss)
    np.testing.assert_allclose(_logits(model), LOGITS, rtol=1e-6)


@pytest.mark.parametrize(
    "tail",
    [
        [keras.layers.Softmax()],
        [keras.layers.Activation("softmax", dtype="float32")],
        [keras.layers.Dropout(0.5), keras.layers.Activation("softmax")],
        [keras.Sequential([keras.Sequential([keras.layers.Softmax()])])],
    ],
)
def test_softmax_as_a_layer(tail):
    model = _model(*tail, loss="sparse_categorical_crossentropy")
    np.testing.assert_allclose(_logits(model), LOGITS, rtol=1e-6)


def test_a_functional_model_around_a_model():
    inner = _model(activation="softmax")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, inner(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy")
    np.testing.assert_allclose(_logits(model), LOGITS, rtol=1e-6)


@pytest.mark.parametrize(
    "activation,loss",
    [
        (None, BINARY_LOSS(from_logits=True)),
        ("sigmoid", BINARY_LOSS()),
        ("sigmoid", "binary_crossentropy"),
        ("sigmoid", "binary_focal_crossentropy"),
        (None, "hinge"),
        (None, keras.losses.Hinge()),
        (None, "squared_hinge"),
        ("sigmoid", None),
        (None, None),
    ],
)
def test_a_single_logit_becomes_two(activation, loss):
    model = _model(classes=1, activation=activation, loss=loss)
    np.testing.assert_allclose(_logits(model), BINARY, rtol=1e-5)


def test_two_logits_have_the_binary_cross_entropy():
    model = _model(classes=1, loss=BINARY_LOSS(from_logits=True))
    y = np.array([0.0, 1.0, 1.0], "float32")
    found = losses.cross_entropy(y, _logits(model))
    np.testing.assert_allclose(found, np.log1p(np.exp(-(2 * y - 1) * Z[:, 0])), rtol=1e-5)


def test_plain_callables_return_logits():
    expected = X @ WEIGHTS
    np.testing.assert_allclose(_logits(lambda x: x @ WEIGHTS), expected, rtol=1e-6)
    one = _logits(lambda x: x @ WEIGHTS[:, :1])
    np.testing.assert_allclose(one, np.stack([np.zeros(3), expected[:, 0]], axis=-1), rtol=1e-6)


def test_probabilities_without_a_keras_softmax_are_inverted():
    @keras.saving.register_keras_serializable("test")
    class Normalised(keras.layers.Layer):
        def call(self, x):
            exponentials = keras.ops.exp(x)
            return exponentials / keras.ops.sum(exponentials, axis=-1, keepdims=True)

    model = _model(Normalised(), loss=SPARSE())
    expected = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    np.testing.assert_allclose(_logits(model), expected, rtol=1e-5)

    @keras.saving.register_keras_serializable("test")
    class Logistic(keras.layers.Layer):
        def call(self, x):
            return 1.0 / (1.0 + keras.ops.exp(-x))

    model = _model(Logistic(), classes=1, loss=BINARY_LOSS())
    np.testing.assert_allclose(_logits(model), BINARY, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [_custom_loss, lambda y, z: y - z])
def test_integer_labels_make_a_custom_loss_a_classification(loss):
    model = _model(loss=loss)
    for y in (np.array([0, 2, 1]), np.array([[0], [2], [1]]), None):
        np.testing.assert_allclose(_logits(model, y), LOGITS, rtol=1e-6)
    for y in (np.array([0.0, 2.0, 1.0]), np.eye(3), np.eye(3, dtype="int32")):
        with pytest.raises(ValueError, match="Expected one classification output"):
            _logits(model, y)


def test_a_column_under_a_custom_loss_is_no_classification():
    with refusals.assert_refused(r"Expected one classification output.*outputs \[\(\(3, 1\), "):
        _logits(_model(classes=1, loss=_custom_loss))


def test_a_softmax_makes_a_custom_loss_a_classification():
    model = _model(activation="softmax", loss=_custom_loss)
    np.testing.assert_allclose(_logits(model), LOGITS, rtol=1e-6)


@pytest.mark.parametrize(
    "loss", ["binary_crossentropy", "mse", "kl_divergence", "poisson", "hinge", "huber"]
)
def test_a_softmax_makes_every_loss_of_keras_a_classification(loss):
    model = _model(activation="softmax", loss=loss)
    for labels in (None, np.array([0, 1, 2]), np.eye(3, dtype="float32")):
        np.testing.assert_allclose(_logits(model, labels), LOGITS, rtol=1e-6)
    traced = backends.traced(lambda x: models.Classifier(model).logits(x))
    np.testing.assert_allclose(traced(X), LOGITS, rtol=1e-6)
    with pytest.raises(ValueError, match="Expected one classification output"):
        _logits(_model(activation="sigmoid", loss=loss))


def test_mixed_float16_gives_float32_logits():
    model = _model(
        keras.layers.Activation("softmax", dtype="float32"),
        dtype="mixed_float16",
        loss="sparse_categorical_crossentropy",
    )
    logits = _logits(model)
    assert logits.dtype == np.float32
    # Half precision keeps 11 bits.
    np.testing.assert_allclose(logits, LOGITS, atol=2e-3)


@pytest.mark.parametrize("policy,expected", [("mixed_float16", True), ("mixed_bfloat16", False)])
def test_computes_in_float16(policy, expected):
    keras.config.set_dtype_policy(policy)
    try:
        model = _model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert models.Classifier(model).computes_in_float16 is expected
    assert models.Classifier(_model()).computes_in_float16 is False
    assert models.Classifier(lambda x: x).computes_in_float16 is False


def test_a_saturated_softmax_hides_no_gradient():
    model = _model(activation="softmax", loss="sparse_categorical_crossentropy")
    model.layers[-1].set_weights([1000.0 * WEIGHTS, BIAS])
    x = keras.ops.convert_to_tensor(np.array([[0.0, 1.0], [1.0, 0.0]], "float32"))
    y, other = np.array([1, 0]), np.array([0, 2])
    np.testing.assert_array_equal(model(x), np.eye(3)[y])
    classifier = models.Classifier(model)

    def attacked(loss, labels):
        function = lambda x: (loss(labels, classifier.logits(x)), None)  # noqa: E731
        return np.asarray(backend.value_and_input_gradient(function, x)[1])

    # The best wrong class less the true one; for a wrong label, the winner less that label.
    expected = 1000.0 * (WEIGHTS[:, other] - WEIGHTS[:, y]).T
    np.testing.assert_allclose(attacked(losses.margin, y), expected, rtol=1e-6)
    np.testing.assert_allclose(attacked(losses.cross_entropy, other), -expected, rtol=1e-6)


@pytest.mark.parametrize(
    "model,name",
    [
        (_model(loss="mse"), "mean_squared_error"),
        (_model(loss="hinge"), "hinge"),
        (_model(activation="sigmoid", loss="binary_crossentropy"), "binary_crossentropy"),
        (_model(classes=1, activation="sigmoid", loss="mae"), "mean_absolute_error"),
        (_model(keras.layers.Reshape((3, 1)), loss=SPARSE()), "sparse_categorical_crossentropy"),
    ],
)
def test_what_is_no_classification(model, name):
    shape = str(tuple(model.output_shape[1:]))[1:-1].rstrip(",")
    message = (
        r"Expected one classification output: .* For regression, several outputs, sequences or "
        r'multi-label outputs use attack=PGD\(loss="compiled"\) and the objective "adversarial" or '
        rf'"mixed"\. Received: outputs \[\(\(3, {shape}\), .float32.\)\] under the loss .{name}.$'
    )
    with refusals.assert_refused(message):
        _logits(model)


def test_several_outputs_are_no_classification():
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(3)(inputs), keras.layers.Dense(1)(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", [SPARSE(from_logits=True), "mse"])
    with refusals.assert_refused(r"\[\(\(3, 3\).*\(\(3, 1\).*under the loss 'several'"):
        _logits(model)


def test_softmax_under_a_loss_from_logits():
    message = "ends in a softmax or sigmoid, but its loss was built with from_logits=True"
    with pytest.raises(ValueError, match=message):
        _logits(_model(activation="softmax", loss=SPARSE(from_logits=True)))
    with pytest.raises(ValueError, match=message):
        _logits(_model(classes=1, activation="sigmoid", loss=BINARY_LOSS(from_logits=True)))


def test_training_is_passed_to_models_that_take_it():
    recorder = small_models.Recorder(WEIGHTS)
    classifier = models.Classifier(recorder)
    x = keras.ops.convert_to_tensor(X)
    classifier(x)
    classifier(x, training=True)
    classifier.logits(x)
    assert recorder.seen == [False, True, False]


def test_models_whose_call_takes_no_training():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, x):
            return self.head(x)

    model = Plain()
    model(X)
    model.head.set_weights([WEIGHTS, BIAS])
    model.compile("sgd", SPARSE(from_logits=True))
    np.testing.assert_allclose(_logits(model), LOGITS, rtol=1e-6)
    outputs = models.Classifier(model)(keras.ops.convert_to_tensor(X), training=True)
    np.testing.assert_allclose(outputs, LOGITS, rtol=1e-6)


@pytest.mark.parametrize(
    "classes,activation,loss",
    [
        (3, None, SPARSE(from_logits=True)),
        (3, "softmax", SPARSE()),
        (1, None, BINARY_LOSS(from_logits=True)),
        (1, "sigmoid", BINARY_LOSS()),
        (1, None, "hinge"),
    ],
)
def test_to_outputs_undoes_to_logits(classes, activation, loss):
    model = _model(classes=classes, activation=activation, loss=loss)
    classifier = models.Classifier(model)
    outputs = classifier(keras.ops.convert_to_tensor(X))
    found = classifier.to_outputs(classifier.to_logits(outputs), outputs)
    np.testing.assert_allclose(found, outputs, rtol=1e-5)
    # A constant shift of all logits changes no probability, and no single logit.
    shifted = classifier.to_outputs(classifier.to_logits(outputs) + 3.0, outputs)
    moves = classes > 1 and activation is None
    np.testing.assert_allclose(shifted, found + (3.0 if moves else 0.0), rtol=1e-5)
    assert (backend.keras_logits(found) is None) == (activation is None)


def test_to_outputs_keeps_the_structure():
    classifier = models.Classifier(_model(loss=SPARSE(from_logits=True)))
    outputs = {"label": keras.ops.convert_to_tensor(LOGITS)}
    found = classifier.to_outputs(keras.ops.zeros((3, 3)), outputs)
    np.testing.assert_array_equal(found["label"], np.zeros((3, 3)))


def test_pack_makes_the_inputs_of_the_model():
    inputs = keras.Input((2,), name="image")
    head = keras.layers.Dense(3)
    model = keras.Model({"image": inputs}, head(inputs))
    head.set_weights([WEIGHTS, BIAS])
    classifier = models.Classifier(model, pack=lambda x: {"image": 2.0 * x})
    found = classifier.logits(keras.ops.convert_to_tensor(X))
    np.testing.assert_allclose(found, 2.0 * X @ WEIGHTS + BIAS, rtol=1e-6)


def test_compiled_loss_is_repeated_for_every_example():
    model = _model(loss="mse", kernel_regularizer=keras.regularizers.L2(0.1))
    y = np.array([[0.0, 1.0, 2.0]] * 3, "float32")
    found = models.Classifier(model).compiled_loss(keras.ops.convert_to_tensor(X), y)
    expected = np.mean((LOGITS - y) ** 2)  # Without the regulariser.
    np.testing.assert_allclose(found, np.full(3, expected), rtol=1e-5)


def test_works_in_a_traced_function():
    model = _model(activation="softmax", loss="sparse_categorical_crossentropy")
    traced = backends.traced(lambda x: models.Classifier(model).logits(x))
    np.testing.assert_allclose(traced(X), LOGITS, rtol=1e-6)


class _OwnMargin(kr.losses.Margin):
    pass


@pytest.mark.parametrize(
    "loss",
    [
        kr.losses.DLR(),
        kr.losses.Margin(),
        kr.losses.SoftMargin(),
        kr.losses.TemperatureCrossEntropy(5.0),
        kr.losses.margin,
    ],
)
def test_the_losses_of_the_package_that_take_labels_are_known(loss):
    model = _model(loss=loss)
    classifier = models.Classifier(model)
    for labels in (None, np.array([0, 1, 2]), np.eye(3, dtype="float32")):
        np.testing.assert_allclose(_logits(model, labels), LOGITS, rtol=1e-6)
    assert not classifier.is_classification(LOGITS[:, :1])
    wrong, message = classifier.logits_mismatch(np.full((2, 3), 1 / 3, "float32"))
    assert bool(wrong) and "The loss takes logits" in message


@pytest.mark.parametrize(
    "loss", [kr.losses.SoftTargets(5.0), kr.losses.LogitKLDivergence(), _OwnMargin()]
)
def test_other_losses_of_the_package_are_custom(loss):
    classifier = models.Classifier(_model(loss=loss))
    assert not classifier.is_classification(LOGITS, LOGITS)
    assert classifier.is_classification(LOGITS, np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), True),
        ([keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)], True),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2), False),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), False),
        ("sparse_categorical_crossentropy", False),
        (kr.losses.Margin(), False),
        (lambda y_true, y_pred: y_pred[:, 0], True),
    ],
)
def test_what_the_loss_ignores(loss, expected):
    assert models.Classifier(_model(loss=loss)).ignores(-1) is expected


@pytest.mark.exhaustive
@backends.tensorflow_only("shapes are always known elsewhere")
def test_logits_have_as_many_rows_as_the_inputs_also_where_the_model_does_not_say():
    model = black_box.BlackBox(lambda x: x[:, :2])
    for size in (1, 3, None):
        spec = tf.TensorSpec((size, 4))
        traced = tf.function(models.Classifier(model).logits).get_concrete_function(spec)
        assert tuple(traced.structured_outputs.shape) == (size, 2)
