import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import models
from keras_robust import training
from tests.support import backends
from tests.support import devices
from tests.support import numpy_reference
from tests.support import small_models
from tests.support import streams
from tests.support import tiers


def test_the_model_runs_once_and_in_training_mode():
    recorder = small_models.Recorder(np.eye(6))
    classifier = models.Classifier(recorder)
    stream = training.ForwardPass(classifier, streams.batch(y=0))
    assert not stream.was_used
    assert recorder.seen == []
    np.testing.assert_allclose(stream.outputs, streams.X, rtol=1e-6)
    np.testing.assert_allclose(stream.logits, streams.X, rtol=1e-6)
    assert stream.was_used
    assert recorder.seen == [True]


def test_logits_and_loss():
    clean, adversarial = streams.streams(streams.model(), sample_weight=streams.SAMPLE_WEIGHT)
    for stream, x in ((clean, streams.X), (adversarial, streams.X_ADV)):
        z = numpy_reference.logits(x.astype("float64"))
        np.testing.assert_allclose(stream.logits, z, rtol=1e-5, atol=1e-5)
        expected = streams.mean(streams.cross_entropy(z), streams.SAMPLE_WEIGHT)
        assert float(stream.loss) == pytest.approx(expected, rel=1e-5)


def test_loss_of_other_outputs_has_weights_and_regularisers():
    stream, _ = streams.streams(streams.model(penalty=0.1), sample_weight=streams.SAMPLE_WEIGHT)
    outputs = 2.0 * stream.outputs + 1.0
    z = 2.0 * numpy_reference.logits(streams.X.astype("float64"))
    expected = streams.mean(streams.cross_entropy(z), streams.SAMPLE_WEIGHT)
    expected += 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(stream.loss_of(outputs)) == pytest.approx(expected, rel=1e-5)
    assert float(stream.loss_of(stream.outputs)) == pytest.approx(float(stream.loss), rel=1e-6)


def test_loss_is_computed_once():
    model = streams.model()
    calls = []
    compute_loss = model.compute_loss
    model.compute_loss = lambda *arguments: calls.append(1) or compute_loss(*arguments)
    stream, _ = streams.streams(model)
    assert stream.loss is stream.loss
    assert calls == [1]


def test_loss_gets_what_a_custom_compute_loss_expects():
    class Custom(keras.Model):
        def call(self, inputs):
            return 2.0 * inputs["image"]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.sum(x["image"] + y_pred) + y + sample_weight

    classifier = models.Classifier(Custom(), pack=lambda x: {"image": x})
    stream = training.ForwardPass(classifier, streams.batch([[1.0, 3.0]], 100.0, 1000.0))
    assert float(stream.loss) == 3 * 4.0 + 1100.0


def test_loss_after_the_outputs_of_another_stream_is_refused():
    clean, adversarial = streams.streams(streams.model())
    clean.outputs  # noqa: B018
    adversarial.outputs  # noqa: B018
    with pytest.raises(RuntimeError, match="must read `stream.loss` before the outputs of another"):
        clean.loss  # noqa: B018
    assert float(adversarial.loss) > 0.0


def test_loss_before_the_outputs_of_another_stream():
    clean, adversarial = streams.streams(streams.model())
    before = float(clean.loss)
    adversarial.outputs  # noqa: B018
    assert float(clean.loss) == before


@pytest.mark.parametrize("weight", [None, streams.SAMPLE_WEIGHT])
def test_mean_reduces_as_keras_losses_do(weight):
    stream, _ = streams.streams(streams.model(), sample_weight=weight)
    values = np.array([1.0, 10.0, 100.0, 1000.0], "float32")
    # 1270.5 is half of 1, twice 10, none of 100 and 1.25 times 1000.
    expected = 1111 / 4 if weight is None else 1270.5 / 4
    assert float(stream.mean(keras.ops.convert_to_tensor(values))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", 1270.5), ("sum_over_batch_size", 1270.5 / 4), ("mean_with_sample_weight", 338.8)],
)
def test_mean_is_reduced_as_the_compiled_loss_is(reduction, expected):
    model = streams.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("sgd", loss)
    stream, _ = streams.streams(model, sample_weight=streams.SAMPLE_WEIGHT)
    values = np.array([1.0, 10.0, 100.0, 1000.0], "float32")
    assert float(stream.mean(values)) == pytest.approx(expected)


def test_weighted_loss_takes_sample_weights_as_a_column():
    weights = np.array([3.0, 0.5, 1.0, 0.0], "float32")
    row, column = (
        float(streams.streams(streams.model(), sample_weight=w)[0].weighted_loss(weights))
        for w in (streams.SAMPLE_WEIGHT, streams.SAMPLE_WEIGHT[:, None])
    )
    assert row == column


WEIGHTS = np.array([3.0, 0.5, 1.0, 0.0], "float32")


@pytest.mark.parametrize("weight", [None, streams.SAMPLE_WEIGHT])
def test_weighted_loss_multiplies_the_sample_weights(weight):
    clean, adversarial = streams.streams(streams.model(penalty=0.1), sample_weight=weight)
    for stream, x in ((clean, streams.X), (adversarial, streams.X_ADV)):
        terms = streams.cross_entropy(numpy_reference.logits(x.astype("float64")))
        total = WEIGHTS if weight is None else WEIGHTS * weight
        penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
        found = stream.weighted_loss(keras.ops.convert_to_tensor(WEIGHTS))
        assert float(found) == pytest.approx(streams.mean(terms, total) + penalty, rel=1e-5)
        # It takes no second pass, and leaves the loss as it is.
        expected = streams.mean(terms, weight) + penalty
        assert float(stream.loss) == pytest.approx(expected, rel=1e-5)
    assert clean.classifier.num_calls == 2


def test_weighted_loss_takes_sample_weights_of_any_number_type():
    weight = np.array([1, 2, 0, 3])
    stream, _ = streams.streams(streams.model(), sample_weight=weight)
    terms = streams.cross_entropy(numpy_reference.logits(streams.X.astype("float64")))
    found = stream.weighted_loss(keras.ops.convert_to_tensor(WEIGHTS))
    assert float(found) == pytest.approx(streams.mean(terms, WEIGHTS * weight), rel=1e-5)


def test_weighted_loss_after_the_outputs_of_another_stream_is_refused():
    clean, adversarial = streams.streams(streams.model())
    clean.outputs  # noqa: B018
    adversarial.outputs  # noqa: B018
    with pytest.raises(RuntimeError, match="must read `stream.loss` before the outputs of another"):
        clean.weighted_loss(keras.ops.convert_to_tensor(WEIGHTS))


def _regularised():
    """A model with both kinds of regularisers, and an added loss."""

    class Adding(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * keras.ops.mean(x))
            return x

    head = keras.layers.Dense(3, kernel_regularizer="l2", bias_regularizer="l1")
    active = keras.layers.Activation("linear", activity_regularizer=keras.regularizers.L2(0.3))
    model = keras.Sequential([keras.Input((6,)), active, Adding(), head])
    head.bias.assign([1.0, -2.0, 0.5])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("weight", [None, streams.SAMPLE_WEIGHT, np.zeros(4, "float32")])
def test_regularisation_is_what_the_loss_has_beside_the_compiled_loss(weight):
    model = _regularised()
    clean, adversarial = streams.streams(model, sample_weight=weight)
    kernel, bias = (part.astype("float64") for part in model.layers[-1].get_weights())
    for stream, x in ((clean, streams.X), (adversarial, streams.X_ADV)):
        loss = float(stream.loss)
        terms = streams.cross_entropy(x @ kernel + bias)
        expected = loss - streams.mean(terms, weight)
        assert float(stream.regularisation) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert expected > 0.01 * (np.sum(kernel**2) + 3.5) + 0.04


def test_regularisation_is_that_of_its_own_pass():
    # The activities of the two differ, and Keras keeps those of the latest pass only.
    model = _regularised()
    clean, adversarial = streams.streams(model, x_adv=10.0 * streams.X_ADV)
    alone = [float(stream.regularisation) for stream in streams.streams(model)[:1]]
    for stream in (clean, adversarial):
        stream.outputs  # noqa: B018
    assert float(clean.regularisation) == pytest.approx(alone[0], rel=1e-6)
    assert float(adversarial.regularisation) > 10.0 * alone[0]


@pytest.mark.exhaustive
def test_regularisation_of_a_model_without_any_is_zero():
    stream, _ = streams.streams(streams.model())
    assert float(stream.regularisation) == 0.0
    assert stream.was_used


@backends.tensorflow_only("replicas are TensorFlow's")
@tiers.parametrize("count", [2, 1])
def test_regularisation_of_all_replicas_together_counts_once(count):
    strategy = devices.mirrored(count)
    with strategy.scope():
        head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        model = keras.Sequential([keras.Input((6,)), head])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def run():
        stream, _ = streams.streams(model, sample_weight=np.zeros(4, "float32"))
        return stream.loss, stream.regularisation

    # The labels carry no weight, so that the loss is all regularisation.
    for part in tf.function(lambda: strategy.run(run))():
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
        assert float(total) == pytest.approx(0.1 * np.sum(np.asarray(head.kernel) ** 2), rel=1e-5)
