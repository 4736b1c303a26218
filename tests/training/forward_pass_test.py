import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_robust import backend
from keras_robust import models
from keras_robust import training
from tests.support import backends
from tests.support import devices
from tests.support import forward_passes
from tests.support import gradient_steps
from tests.support import numpy_reference
from tests.support import small_models
from tests.support import tiers


def test_the_model_runs_once_and_in_training_mode():
    recorder = small_models.Recorder(np.eye(6))
    classifier = models.Classifier(recorder)
    forward_pass = training.ForwardPass(classifier, forward_passes.batch(y=0))
    assert not forward_pass.was_used
    assert recorder.seen == []
    np.testing.assert_allclose(forward_pass.outputs, forward_passes.X, rtol=1e-6)
    np.testing.assert_allclose(forward_pass.logits, forward_passes.X, rtol=1e-6)
    assert forward_pass.was_used
    assert recorder.seen == [True]


def test_logits_and_loss():
    clean, adversarial = forward_passes.forward_passes(
        forward_passes.model(), sample_weight=forward_passes.SAMPLE_WEIGHT
    )
    for forward_pass, x in ((clean, forward_passes.X), (adversarial, forward_passes.X_ADV)):
        z = numpy_reference.logits(x.astype("float64"))
        np.testing.assert_allclose(forward_pass.logits, z, rtol=1e-5, atol=1e-5)
        expected = forward_passes.mean(
            forward_passes.cross_entropy(z), forward_passes.SAMPLE_WEIGHT
        )
        assert float(forward_pass.loss) == pytest.approx(expected, rel=1e-5)


def test_loss_of_other_outputs_has_weights_and_regularisers():
    forward_pass, _ = forward_passes.forward_passes(
        forward_passes.model(penalty=0.1), sample_weight=forward_passes.SAMPLE_WEIGHT
    )
    outputs = 2.0 * forward_pass.outputs + 1.0
    z = 2.0 * numpy_reference.logits(forward_passes.X.astype("float64"))
    expected = forward_passes.mean(forward_passes.cross_entropy(z), forward_passes.SAMPLE_WEIGHT)
    expected += 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert float(forward_pass.loss_of(outputs)) == pytest.approx(expected, rel=1e-5)
    assert float(forward_pass.loss_of(forward_pass.outputs)) == pytest.approx(
        float(forward_pass.loss), rel=1e-6
    )


def test_loss_is_computed_once():
    model = forward_passes.model()
    calls = []
    compute_loss = model.compute_loss
    model.compute_loss = lambda *arguments: calls.append(1) or compute_loss(*arguments)
    forward_pass, _ = forward_passes.forward_passes(model)
    assert forward_pass.loss is forward_pass.loss
    assert calls == [1]


def test_loss_gets_what_a_custom_compute_loss_expects():
    class Custom(keras.Model):
        def call(self, inputs):
            return 2.0 * inputs["image"]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.sum(x["image"] + y_pred) + y + sample_weight

    classifier = models.Classifier(Custom(), pack=lambda x: {"image": x})
    forward_pass = training.ForwardPass(
        classifier, forward_passes.batch([[1.0, 3.0]], 100.0, 1000.0)
    )
    assert float(forward_pass.loss) == 3 * 4.0 + 1100.0


def test_loss_of_given_outputs_is_refused():
    clean, _ = forward_passes.forward_passes(forward_passes.model())
    given = training.ForwardPass(clean.classifier, clean.batch, outputs=clean.outputs)
    with pytest.raises(RuntimeError, match="has no loss. .*Received: a forward pass of a `StepR"):
        given.loss  # noqa: B018
    with pytest.raises(RuntimeError, match="not its regularizers"):
        given.regularisation  # noqa: B018


@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_mean_reduces_as_keras_losses_do(weight):
    forward_pass, _ = forward_passes.forward_passes(forward_passes.model(), sample_weight=weight)
    values = np.array([1.0, 10.0, 100.0, 1000.0], "float32")
    # 1270.5 is half of 1, twice 10, none of 100 and 1.25 times 1000.
    expected = 1111 / 4 if weight is None else 1270.5 / 4
    assert float(forward_pass.mean(keras.ops.convert_to_tensor(values))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", 1270.5), ("sum_over_batch_size", 1270.5 / 4), ("mean_with_sample_weight", 338.8)],
)
def test_mean_is_reduced_as_the_compiled_loss_is(reduction, expected):
    model = forward_passes.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile("sgd", loss)
    forward_pass, _ = forward_passes.forward_passes(
        model, sample_weight=forward_passes.SAMPLE_WEIGHT
    )
    values = np.array([1.0, 10.0, 100.0, 1000.0], "float32")
    assert float(forward_pass.mean(values)) == pytest.approx(expected)


def test_weighted_loss_takes_sample_weights_as_a_column():
    weights = np.array([3.0, 0.5, 1.0, 0.0], "float32")
    row, column = (
        float(
            forward_passes.forward_passes(forward_passes.model(), sample_weight=w)[0].weighted_loss(
                weights
            )
        )
        for w in (forward_passes.SAMPLE_WEIGHT, forward_passes.SAMPLE_WEIGHT[:, None])
    )
    np.testing.assert_array_equal(row, column)


WEIGHTS = np.array([3.0, 0.5, 1.0, 0.0], "float32")
OUTPUTS = np.random.default_rng(4).normal(size=(4, 3)).astype("float32")


@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_weighted_loss_multiplies_the_sample_weights(weight):
    clean, adversarial = forward_passes.forward_passes(
        forward_passes.model(penalty=0.1), sample_weight=weight
    )
    for forward_pass, x in ((clean, forward_passes.X), (adversarial, forward_passes.X_ADV)):
        terms = forward_passes.cross_entropy(numpy_reference.logits(x.astype("float64")))
        total = WEIGHTS if weight is None else WEIGHTS * weight
        penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
        found = forward_pass.weighted_loss(keras.ops.convert_to_tensor(WEIGHTS))
        assert float(found) == pytest.approx(forward_passes.mean(terms, total) + penalty, rel=1e-5)
        # It takes no second pass, and leaves the loss as it is.
        expected = forward_passes.mean(terms, weight) + penalty
        assert float(forward_pass.loss) == pytest.approx(expected, rel=1e-5)
    assert clean.classifier.num_calls == 2


def test_weighted_loss_takes_sample_weights_of_any_number_type():
    weight = np.array([1, 2, 0, 3])
    forward_pass, _ = forward_passes.forward_passes(forward_passes.model(), sample_weight=weight)
    terms = forward_passes.cross_entropy(numpy_reference.logits(forward_passes.X.astype("float64")))
    found = forward_pass.weighted_loss(keras.ops.convert_to_tensor(WEIGHTS))
    assert float(found) == pytest.approx(forward_passes.mean(terms, WEIGHTS * weight), rel=1e-5)


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


@pytest.mark.parametrize("weight", [None, forward_passes.SAMPLE_WEIGHT, np.zeros(4, "float32")])
def test_regularisation_is_what_the_loss_has_beside_the_compiled_loss(weight):
    model = _regularised()
    clean, adversarial = forward_passes.forward_passes(model, sample_weight=weight)
    kernel, bias = (part.astype("float64") for part in model.layers[-1].get_weights())
    for forward_pass, x in ((clean, forward_passes.X), (adversarial, forward_passes.X_ADV)):
        loss = float(forward_pass.loss)
        terms = forward_passes.cross_entropy(x @ kernel + bias)
        expected = loss - forward_passes.mean(terms, weight)
        assert float(forward_pass.regularisation) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert expected > 0.01 * (np.sum(kernel**2) + 3.5) + 0.04


def test_regularisation_is_that_of_its_own_pass():
    # The activities of the two differ, and Keras keeps those of the latest pass only.
    model = _regularised()
    clean, adversarial = forward_passes.forward_passes(model, x_adv=10.0 * forward_passes.X_ADV)
    alone = [
        float(forward_pass.regularisation)
        for forward_pass in forward_passes.forward_passes(model)[:1]
    ]
    for forward_pass in (clean, adversarial):
        forward_pass.outputs  # noqa: B018
    assert float(clean.regularisation) == pytest.approx(alone[0], rel=1e-6)
    assert float(adversarial.regularisation) > 10.0 * alone[0]


def _losses(forward_pass):
    weights = keras.ops.convert_to_tensor(WEIGHTS)
    losses = forward_pass.loss, forward_pass.weighted_loss(weights), forward_pass.loss_of(OUTPUTS)
    return [float(loss) for loss in losses]


def _of_both(model, is_outputs_first, between=None):
    """The losses of both passes; `between` runs the model after the outputs of both."""
    passes = forward_passes.forward_passes(model, x_adv=10.0 * forward_passes.X_ADV)
    if is_outputs_first:
        for forward_pass in passes:
            forward_pass.outputs  # noqa: B018
    if between:
        between(passes[0].classifier)
    return [_losses(forward_pass) for forward_pass in passes]


@pytest.mark.parametrize("make", [forward_passes.model, _regularised])
def test_losses_do_not_depend_on_the_order_in_which_they_are_read(make):
    model = make()
    first, second = _of_both(model, is_outputs_first=False)
    assert [first, second] == _of_both(model, is_outputs_first=True)
    assert first[0] != second[0]
    # They are those of Keras.
    for x, found in ((forward_passes.X, first), (10.0 * forward_passes.X_ADV, second)):
        outputs = model(x, training=True)
        assert found[0] == float(model.compute_loss(x, forward_passes.Y, outputs))


@pytest.mark.parametrize(
    "between",
    [
        lambda classifier: classifier(keras.ops.convert_to_tensor(5.0 * forward_passes.X)),
        lambda classifier: classifier.logits(keras.ops.convert_to_tensor(forward_passes.X)),
        lambda classifier: _run_forgotten(classifier.model),
    ],
    ids=["inference", "logits", "forgotten pass"],
)
def test_losses_do_not_depend_on_other_runs_of_the_model(between):
    model = _regularised()
    expected = _of_both(model, is_outputs_first=False)
    assert _of_both(model, is_outputs_first=True, between=between) == expected


def _run_forgotten(model):
    with backend.forgotten_pass(model):
        model(7.0 * forward_passes.X, training=True)


def test_losses_that_only_other_runs_add_do_not_count():
    class Busy(keras.layers.Layer):
        def call(self, x, training=None):
            if not training:
                self.add_loss(keras.ops.sum(x))
            return x

    model = keras.Sequential([keras.Input((6,)), Busy(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    forward_pass, _ = forward_passes.forward_passes(model)
    z = np.asarray(forward_pass.outputs, "float64")
    model(forward_passes.X)
    assert float(forward_pass.loss) == pytest.approx(
        forward_passes.mean(forward_passes.cross_entropy(z)), rel=1e-5
    )


@tiers.parametrize("compiled", [False, True])
def test_gradients_of_losses_in_any_order(compiled):
    model = _regularised()

    def ordered(clean, adversarial):
        return 0.3 * clean.loss + 0.7 * adversarial.loss

    def outputs_first(clean, adversarial):
        total = keras.ops.sum(clean.outputs) + keras.ops.sum(adversarial.outputs)
        return ordered(clean, adversarial) + 0.0 * total

    def gradients(loss):
        def run():
            return gradient_steps.gradient_step(model).backward(loss, gradient_steps.found())[:3]

        return backend.compile_function(run)() if compiled else run()

    found, expected = gradients(outputs_first), gradients(ordered)
    for one, other in zip(*map(keras.tree.flatten, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.exhaustive
def test_regularisation_of_a_model_without_any_is_zero():
    forward_pass, _ = forward_passes.forward_passes(forward_passes.model())
    assert float(forward_pass.regularisation) == 0.0
    assert forward_pass.was_used


@backends.tensorflow_only("replicas are TensorFlow's")
@tiers.parametrize("count", [2, 1])
def test_regularisation_of_all_replicas_together_counts_once(count):
    strategy = devices.mirrored(count)
    with strategy.scope():
        head = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))
        model = keras.Sequential([keras.Input((6,)), head])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def run():
        forward_pass, _ = forward_passes.forward_passes(model, sample_weight=np.zeros(4, "float32"))
        total = forward_pass.regularisation
        return forward_pass.loss, total, forward_pass.penalty(0.1 * keras.ops.sum(head.kernel**2))

    # The labels carry no weight, so that the loss is all regularisation.
    for part in tf.function(lambda: strategy.run(run))():
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
        assert float(total) == pytest.approx(0.1 * np.sum(np.asarray(head.kernel) ** 2), rel=1e-5)
