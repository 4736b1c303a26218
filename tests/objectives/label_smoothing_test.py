import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import linear_fit
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

LabelSmoothing = kr.objectives.LabelSmoothing
ROWS = np.eye(3, dtype="float32")[forward_passes.Y]


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _smoothed(x, smoothing, labels=ROWS):
    """The cross-entropy of each example with smoothed labels."""
    labels = (1.0 - smoothing) * labels + smoothing / 3.0
    z = numpy_reference.logits(x.astype("float64"))
    return -np.sum(labels * forward_passes.log_softmax(z), axis=-1)


@tiers.parametrize("smoothing", [0.1, 0.0, 0.6, 1.0])
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
@tiers.parametrize(
    ("objective", "x"), [("adversarial", forward_passes.X_ADV), ("clean", forward_passes.X)]
)
def test_is_the_cross_entropy_of_smoothed_labels(smoothing, sample_weight, objective, x):
    found = _loss(LabelSmoothing(smoothing, objective), sample_weight=sample_weight)
    assert found == pytest.approx(
        forward_passes.mean(_smoothed(x, smoothing), sample_weight), rel=1e-5
    )


def test_defaults():
    assert _loss(LabelSmoothing()) == _loss(LabelSmoothing(0.1, "clean"))
    assert _loss(LabelSmoothing()) != pytest.approx(_loss(LabelSmoothing(0.2)), rel=1e-3)


def test_both_streams_of_a_mix_are_smoothed():
    expected = 0.3 * _smoothed(forward_passes.X, 0.2) + 0.7 * _smoothed(forward_passes.X_ADV, 0.2)
    found = _loss(LabelSmoothing(0.2, kr.objectives.Mixed(0.3)))
    assert found == pytest.approx(np.mean(expected), rel=1e-5)


def test_trades_is_smoothed_in_its_clean_term():
    z, z_adv = (
        numpy_reference.logits(x.astype("float64"))
        for x in (forward_passes.X, forward_passes.X_ADV)
    )
    expected = _smoothed(forward_passes.X, 0.2) + 6.0 * forward_passes.kl_divergence(z, z_adv)
    assert _loss(LabelSmoothing(0.2, "trades")) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
def test_a_loss_with_weights_of_its_own_is_smoothed_too(sample_weight):
    weights = np.array([1.0, 0.25, 3.0, 0.0], "float32")

    class Weighted(kr.objectives.Objective):
        def loss(self, clean, adversarial):
            return clean.weighted_loss(keras.ops.convert_to_tensor(weights))

    found = _loss(LabelSmoothing(0.2, Weighted()), sample_weight=sample_weight)
    expected = forward_passes.mean(weights * _smoothed(forward_passes.X, 0.2), sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


def _compiled(loss, head=()):
    model = keras.Sequential([*numpy_reference.keras_model().layers, *head])
    model.compile("sgd", loss)
    return model


@tiers.parametrize("from_logits", [True, False])
@tiers.parametrize("sparse", [True, False])
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
def test_equals_keras(from_logits, sparse, sample_weight):
    cross_entropy = keras.losses.CategoricalCrossentropy
    head = () if from_logits else (keras.layers.Softmax(),)
    smooth = _compiled(cross_entropy(from_logits=from_logits, label_smoothing=0.3), head)
    expected = smooth.evaluate(forward_passes.X, ROWS, sample_weight=sample_weight, verbose=0)
    if sample_weight is not None:
        # `evaluate` divides by the sum of the weights.
        expected = float(smooth.loss(ROWS, smooth(forward_passes.X), sample_weight))
    if sparse:
        cross_entropy = keras.losses.SparseCategoricalCrossentropy
    model = _compiled(cross_entropy(from_logits=from_logits), head)
    y = forward_passes.Y if sparse else ROWS
    found = _loss(LabelSmoothing(0.3), model, y=y, sample_weight=sample_weight)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("from_logits", [True, False])
def test_equals_keras_with_a_single_output(from_logits):
    y = np.array([[1.0], [0.0], [1.0], [1.0]], "float32")
    activation = None if from_logits else "sigmoid"
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, activation=activation)])
    cross_entropy = keras.losses.BinaryCrossentropy
    model.compile("sgd", cross_entropy(from_logits=from_logits))
    smooth = cross_entropy(from_logits=from_logits, label_smoothing=0.3)
    expected = float(smooth(y, model(forward_passes.X)))
    assert _loss(LabelSmoothing(0.3), model, y=y) == pytest.approx(expected, rel=1e-5)


def test_soft_rows_are_smoothed_as_rows():
    rows = np.random.default_rng(1).dirichlet(np.ones(3), size=4).astype("float32")
    model = _compiled(keras.losses.CategoricalCrossentropy(from_logits=True))
    expected = np.mean(_smoothed(forward_passes.X, 0.3, rows))
    assert _loss(LabelSmoothing(0.3), model, y=rows) == pytest.approx(expected, rel=1e-5)


def test_examples_without_a_label_are_left_out():
    model = _compiled(keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
    found = _loss(LabelSmoothing(0.3), model, y=np.array([2, -1, 1, -1]))
    expected = np.mean(_smoothed(forward_passes.X, 0.3)[[0, 2]])
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_equation():
    model = forward_passes.model()
    head = model.layers[-1].trainable_weights

    def compute():
        return LabelSmoothing(0.4).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    found = sum(np.sum(g * w) for g, w in zip(slopes, head, strict=True))

    def expected(scale):
        labels = 0.6 * ROWS + 0.4 / 3.0
        z = scale * numpy_reference.logits(forward_passes.X.astype("float64"))
        return -np.mean(np.sum(labels * forward_passes.log_softmax(z), axis=-1))

    assert found == pytest.approx(forward_passes.slope(expected), rel=1e-4)


def test_a_scheduled_smoothing_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 10, 0.3)
    found = _loss(LabelSmoothing(schedule), iteration=5)
    assert found == pytest.approx(_loss(LabelSmoothing(0.2)), rel=1e-6)


def test_regularisers_count_once():
    objective = LabelSmoothing(0.2, "mixed")
    with_penalty = _loss(objective, forward_passes.model(penalty=0.1))
    penalty = 0.1 * np.sum(numpy_reference.HEAD[0] ** 2)
    assert with_penalty - _loss(objective) == pytest.approx(penalty, rel=1e-5)


def test_only_the_stream_of_the_objective_is_run():
    clean, adversarial = forward_passes.forward_passes(forward_passes.model())
    LabelSmoothing(0.1, "adversarial").loss(clean, adversarial)
    assert (clean.was_used, adversarial.was_used) == (False, True)


def test_attack_and_examples_are_those_of_the_objective_within():
    assert LabelSmoothing(0.1, "adversarial").runs_attack
    assert not LabelSmoothing().runs_attack
    batch = forward_passes.batch()
    np.testing.assert_array_equal(
        LabelSmoothing().perturb(None, None, batch).x_adv, forward_passes.X
    )


def test_an_objective_that_does_not_use_the_compiled_loss_is_refused():
    class Other(kr.objectives.Objective):
        def loss(self, clean, adversarial):
            return clean.mean(clean.logits[:, 0])

    with pytest.raises(ValueError, match=r"does not use it. Received: objective=Other\(\)"):
        _loss(LabelSmoothing(0.1, Other()))


@backends.tensorflow_only("on JAX Keras computes the loss before any callback, and fails")
def test_other_losses_are_refused_before_the_training():
    model = linear_fit.make_model(loss=keras.losses.MeanSquaredError())
    with refusals.assert_refused(
        "Compile the model with one of the Keras losses .* Received: ", model
    ):
        linear_fit.fit(model, linear_fit.adv_train(objective="labelsmoothing"), *linear_fit.data())


@pytest.mark.parametrize("is_dict", [False, True])
def test_smoothing_twice_is_refused_before_the_training(is_dict):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model = linear_fit.make_model()
    model.compile("sgd", [loss] if is_dict else loss)
    with refusals.assert_refused("already smooths labels. .*label_smoothing=0.*Received"):
        LabelSmoothing().check(model, kr.Linf())


def test_check_asks_the_objective_within():
    class Never(kr.objectives.Clean):
        def check(self, model, threat_model):
            raise ValueError("Never.")

    with pytest.raises(ValueError, match="Never."):
        LabelSmoothing(0.1, Never()).check(forward_passes.model(), kr.Linf())


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_wrong_smoothing(smoothing):
    message = f"must be a number from 0 to 1.0.*Received: smoothing={smoothing}"
    refusals.assert_argument_refused(LabelSmoothing, message, smoothing=smoothing)
