import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from keras_robust import backend
from keras_robust.certification.interval import box_margins
from keras_robust.certification.interval_bounds import IntervalBounds
from keras_robust.certification.linear_bounds import crown_margins
from keras_robust.objectives import IBP
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support.bounded import sequential


def _bounds(x, epsilon, box, scale=1.0):
    """Upper bounds of `z_j - z_y` for the reference network, by hand in float64."""
    x = x.astype("float64")
    low, high = x - epsilon, x + epsilon
    if box is not None:
        low, high = np.maximum(low, box[0]), np.minimum(high, box[1])
    (kernel, bias), (head, offset) = numpy_reference.HIDDEN, numpy_reference.HEAD
    centre, radius = (high + low) / 2 @ kernel + bias, (high - low) / 2 @ np.abs(kernel)
    low, high = np.tanh(centre - radius), np.tanh(centre + radius)
    margins = np.zeros((len(x), 3))
    for row, y in enumerate(forward_passes.Y):
        for j in range(3):
            slope = scale * (head[:, j] - head[:, y])
            middle = (high[row] + low[row]) / 2 @ slope + offset[j] - offset[y]
            margins[row, j] = middle + (high[row] - low[row]) / 2 @ np.abs(slope)
    return margins


def _paper(kappa, epsilon=0.1, box=(0.0, 1.0), sample_weight=None, scale=1.0):
    hidden = np.tanh(
        forward_passes.X.astype("float64") @ numpy_reference.HIDDEN[0] + numpy_reference.HIDDEN[1]
    )
    z = scale * hidden @ numpy_reference.HEAD[0] + numpy_reference.HEAD[1]
    clean = forward_passes.cross_entropy(z)
    worst = forward_passes.cross_entropy(_bounds(forward_passes.X, epsilon, box, scale))
    return forward_passes.mean(kappa * clean + (1.0 - kappa) * worst, sample_weight)


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sample_weight", [None, forward_passes.SAMPLE_WEIGHT])
def test_is_the_equation_of_the_paper(kappa, sample_weight):
    found = _loss(IBP(kappa), sample_weight=sample_weight)
    assert found == pytest.approx(_paper(kappa, sample_weight=sample_weight), rel=1e-5)


@pytest.mark.parametrize(("epsilon", "box"), [(0.0, None), (0.3, None), (0.3, (0.2, 0.8))])
def test_radius_and_box(epsilon, box):
    found = _loss(
        IBP(0.25), ball=kr.Linf(epsilon, box), x=np.clip(forward_passes.X, *(box or (0, 1)))
    )
    if box is None:
        assert found == pytest.approx(_paper(0.25, epsilon, box), rel=1e-5)
    else:
        assert found < _paper(0.25, epsilon, None)


def test_one_radius_for_each_feature():
    epsilon = np.array([0.0, 0.3, 0.1, 0.0, 0.2, 0.05], "float32")
    found = _loss(IBP(0.0), ball=kr.Linf(epsilon))
    assert found == pytest.approx(_paper(0.0, epsilon.astype("float64")), rel=1e-5)


def test_a_scheduled_kappa_is_read_at_the_step():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.5)
    assert _loss(IBP(schedule), iteration=4) == pytest.approx(_paper(0.8), rel=1e-5)


@pytest.mark.exhaustive
def test_epsilon_and_kappa_move_together_in_a_fit():
    model = forward_passes.model()
    model.optimizer.learning_rate = 0.0
    kappa = keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.5)
    callback = kr.AdvTrain(kr.Linf(0.1), objective=IBP(kappa), warmup=4)
    history = model.fit(
        forward_passes.X, forward_passes.Y, epochs=6, verbose=0, callbacks=[callback]
    ).history
    shares = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    radii = 0.1 * np.array([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    expected = [_paper(1.0 - 0.5 * s, epsilon) for s, epsilon in zip(shares, radii, strict=True)]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-4)


def test_gradient_reaches_the_weights_through_the_bound():
    model = forward_passes.model()
    head = model.layers[-1].kernel

    def compute():
        return IBP(0.3).loss(*forward_passes.forward_passes(model))

    loss, slopes = gradients.of(compute, head)
    slope = np.sum(slopes * numpy_reference.HEAD[0])
    assert slope == pytest.approx(forward_passes.slope(lambda s: _paper(0.3, scale=s)), rel=1e-3)


def test_regularisers_count_once():
    found = _loss(IBP(0.3), forward_passes.model(0.1)) - _loss(IBP(0.3))
    assert found == pytest.approx(0.1 * np.sum(numpy_reference.HEAD[0] ** 2), rel=1e-4)


def test_a_sigmoid_and_a_softmax_at_the_end():
    logits, labels = [], np.array([0, 1, 1, 0])
    weights = np.random.default_rng(0).normal(size=(6, 1)).astype("float32")
    for units, head, loss in (
        (1, None, keras.losses.BinaryCrossentropy(from_logits=True)),
        (1, "sigmoid", "binary_crossentropy"),
        (2, "softmax", "sparse_categorical_crossentropy"),
    ):
        model = keras.Sequential([keras.Input((6,)), layers.Dense(units, activation=head)])
        kernel = weights if units == 1 else np.hstack([0.0 * weights, weights])
        model.layers[0].set_weights([kernel, np.zeros(units)])
        model.compile("sgd", loss)
        y = labels[:, None] if units == 1 else labels
        logits.append(_loss(IBP(0.4), model, y=y))
    np.testing.assert_allclose(logits, logits[0], rtol=1e-5)


def test_no_attack_runs_and_examples_stay():
    found = IBP().perturb(None, None, forward_passes.batch())
    np.testing.assert_array_equal(found.x_adv, forward_passes.X)


def _model(*parts, shape=(6,)):
    model = keras.Sequential([keras.Input(shape), *parts])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_refusals_come_before_training():
    dense = layers.Dense(3)
    with pytest.raises(ValueError, match="need Linf: use.*Received: L2"):
        IBP().check(_model(dense), kr.L2(0.1))
    with pytest.raises(ValueError, match="LayerNormalization"):
        IBP().check(_model(layers.LayerNormalization(), layers.Dense(3)), kr.Linf(0.1))
    with refusals.assert_refused(r"IBP must know the shape.*\(None, 3\)"):
        IBP().check(_model(layers.Conv1D(3, 2), shape=(None, 3)), kr.Linf(0.1))
    refusals.assert_argument_refused(
        IBP, "`kappa` must be a number from 0 to 1.0.*kappa=1.5", kappa=1.5
    )


def _relu_model():
    model = sequential(layers.Dense(5, activation="relu"), layers.Dense(3), shape=(6,))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _with_crown(model, kappa, beta):
    """The loss from bounds in float64, which have their own tests."""
    x, labels = forward_passes.X.astype("float64"), keras.ops.convert_to_tensor(forward_passes.Y)
    ends = np.clip([x - 0.1, x + 0.1], 0.0, 1.0)
    with backend.double_precision():
        box = IntervalBounds(*(keras.ops.convert_to_tensor(end, "float64") for end in ends))
        bounds = beta * np.asarray(crown_margins(model, box, labels))
        bounds += (1.0 - beta) * np.asarray(box_margins(model, box, labels))
    assert bounds.dtype == "float64"
    (kernel, bias), (head, offset) = (layer.get_weights() for layer in model.layers)
    z = np.maximum(x @ kernel.astype("float64") + bias, 0.0) @ head + offset
    return np.mean(
        kappa * forward_passes.cross_entropy(z)
        + (1.0 - kappa) * forward_passes.cross_entropy(bounds)
    )


def test_beta_is_the_share_of_crown():
    model = _relu_model()
    ends = [_loss(IBP(0.3, beta), model) for beta in (0.0, 1.0)]
    assert ends[1] < 0.995 * ends[0]
    for beta in (0.0, 0.4, 1.0):
        assert _loss(IBP(0.3, beta), model) == pytest.approx(
            _with_crown(model, 0.3, beta), rel=1e-5
        )
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    found = _loss(IBP(0.3, beta=schedule), model, iteration=6)
    assert found == pytest.approx(_with_crown(model, 0.3, 0.4), rel=1e-5)


def test_gradient_reaches_the_weights_through_crown():
    model = _relu_model()
    weights = model.get_weights()
    rng = np.random.default_rng(5)
    direction = [rng.normal(size=weight.shape) for weight in weights]
    slopes = gradients.of(
        lambda: IBP(0.0, beta=1.0).loss(*forward_passes.forward_passes(model)),
        model.trainable_weights,
    )[1]
    found = sum(np.sum(np.asarray(g) * d) for g, d in zip(slopes, direction, strict=True))
    ends = []
    for size in (1e-3, -1e-3):
        model.set_weights([w + size * d for w, d in zip(weights, direction, strict=True)])
        ends.append(_with_crown(model, 0.0, 1.0))
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)


def test_crown_refuses_other_layers_before_training():
    inside = _model(layers.Dense(3, activation="softmax"), layers.Dense(3, name="last"))
    with pytest.raises(ValueError, match="No linear bound after a softmax.*'last' of class Dense"):
        IBP(beta=1.0).check(inside, kr.Linf(0.1))
    IBP().check(inside, kr.Linf(0.1))
    IBP(beta=1.0).check(forward_passes.model(), kr.Linf(0.1))
    refusals.assert_argument_refused(IBP, "`beta` must be a number from 0 to 1.0.*beta=2", beta=2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("beta", [0.0, 0.5])
@backends.with_and_without_xla
def test_a_fit_lowers_the_bound_and_moves_batch_statistics_once(jit_compile, beta):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(64, 6, 6, 1)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0.5).astype("int32")
    norm = layers.BatchNormalization(momentum=0.5)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            norm,
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=jit_compile)
    mean = np.mean(model.layers[0](x), axis=(0, 1, 2))
    robust = kr.AdvTrain(kr.Linf(0.02), objective=IBP(beta=beta), warmup=0)
    first = model.fit(x, y, epochs=1, batch_size=64, verbose=0, callbacks=[robust]).history
    np.testing.assert_allclose(norm.moving_mean, 0.5 * mean, rtol=1e-4)
    last = model.fit(x, y, epochs=8, batch_size=64, verbose=0, callbacks=[robust]).history
    assert last["loss"][-1] < first["loss"][0]
