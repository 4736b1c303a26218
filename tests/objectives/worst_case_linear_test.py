import keras
import numpy as np
import pytest
from scipy import optimize

import keras_robust as kr
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import linear_model
from tests.support import refusals
from tests.support import tiers

_RNG = np.random.default_rng(31)
KERNEL = _RNG.normal(size=(4, 3)).astype("float32")
BIAS = _RNG.normal(size=3).astype("float32")
X = _RNG.beta(0.5, 0.5, size=(4, 4)).astype("float32")
Y = np.array([2, 0, 1, 0])
BINARY = np.array([1, 0, 0, 1])
EPSILON = {"Linf": 0.15, "L2": 0.6, "L1": 0.9}
SPARSE = keras.losses.SparseCategoricalCrossentropy
LOGISTIC = keras.losses.BinaryCrossentropy

every_norm = tiers.parametrize("norm", EPSILON)
every_box = tiers.parametrize("bounds", [(0.0, 1.0), None], ids=["box", "free"])


def model(loss, classes=1, activation=None, penalty=0.0, layers=()):
    head = keras.layers.Dense(
        classes, activation, kernel_regularizer=keras.regularizers.L2(penalty)
    )
    network = keras.Sequential([keras.Input((4,)), *layers, head])
    head.set_weights([KERNEL[:, :classes], BIAS[:classes]])
    network.compile("sgd", loss)
    return network


def loss_of(network, norm, bounds, y=Y, sample_weight=None):
    ball = getattr(kr, norm)(EPSILON[norm], bounds)
    clean, adversarial = forward_passes.forward_passes(network, X, X, y, sample_weight, ball=ball)
    return float(kr.objectives.WorstCaseLinear().loss(clean, adversarial))


def gain(directions, norm, bounds):
    low, high = bounds or (-np.inf, np.inf)
    x = X.astype("float64")
    return linear_model.largest_gain(directions, x, norm, EPSILON[norm], low, high)


def signed_margins(norm, bounds, kernel=KERNEL[:, 0], bias=BIAS[0], y=BINARY):
    """`s z` at the worst feasible input, with `s` in {-1, 1}; float64."""
    sign = 2.0 * y - 1.0
    return sign * (X @ kernel + bias) - gain(-sign[:, None] * kernel, norm, bounds)


def worst_points(norm, bounds):
    """The worst input of each example for each class, `(n, num_classes, 4)`, in float64."""
    solve = {"Linf": linear_model._linf, "L2": linear_model._l2, "L1": linear_model._l1}[norm]
    low, high = bounds or (-np.inf, np.inf)
    kernel, epsilon = KERNEL.astype("float64"), EPSILON[norm]
    return np.stack(
        [
            [x + solve(kernel[:, j] - kernel[:, y], epsilon, low - x, high - x) for j in range(3)]
            for x, y in zip(X.astype("float64"), Y, strict=True)
        ]
    )


def margins(norm, bounds):
    """The worst margin of each class over the true one, `(n, num_classes)`."""
    z = worst_points(norm, bounds) @ KERNEL + BIAS
    return np.stack([np.diag(z[i]) - z[i, range(3), Y[i]] for i in range(4)])


@every_box
@every_norm
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
def test_logistic_loss_of_the_worst_margin(norm, bounds, sample_weight):
    found = loss_of(model(LOGISTIC(from_logits=True)), norm, bounds, BINARY[:, None], sample_weight)
    terms = np.log1p(np.exp(-signed_margins(norm, bounds)))
    assert found == pytest.approx(forward_passes.mean(terms, sample_weight), rel=1e-5)


@every_norm
@tiers.parametrize("loss", ["hinge", keras.losses.Hinge()])
def test_hinge_loss_of_the_worst_margin(norm, loss):
    found = loss_of(model(loss), norm, None, BINARY[:, None])
    terms = np.maximum(1.0 - signed_margins(norm, None), 0.0)
    assert 0.0 < np.sum(terms == 0.0) + np.sum(terms > 0.0) == 4
    assert found == pytest.approx(np.mean(terms), rel=1e-5)


def test_without_a_box_it_is_the_dual_norm_inside_the_loss():
    w, z = KERNEL[:, 0].astype("float64"), (2 * BINARY - 1) * (X @ KERNEL[:, 0] + BIAS[0])
    dual = {"Linf": np.abs(w).sum(), "L2": np.linalg.norm(w), "L1": np.abs(w).max()}
    for norm, size in dual.items():
        expected = np.mean(np.log1p(np.exp(-z + EPSILON[norm] * size)))
        found = loss_of(model(LOGISTIC(from_logits=True)), norm, None, BINARY[:, None])
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_sigmoid_and_two_classes_have_the_same_loss():
    expected = loss_of(model(LOGISTIC(from_logits=True)), "L2", (0.0, 1.0), BINARY[:, None])
    sigmoid = loss_of(model(LOGISTIC(), activation="sigmoid"), "L2", (0.0, 1.0), BINARY[:, None])
    two = model(SPARSE(from_logits=True), 2)
    kernel, bias = np.stack([0 * KERNEL[:, 0], KERNEL[:, 0]], 1), np.array([0.0, BIAS[0]])
    two.layers[-1].set_weights([kernel, bias])
    assert sigmoid == pytest.approx(expected, rel=1e-5)
    assert loss_of(two, "L2", (0.0, 1.0), BINARY) == pytest.approx(expected, rel=1e-5)


@every_box
@every_norm
@tiers.parametrize("sample_weight", [forward_passes.SAMPLE_WEIGHT, None])
def test_cross_entropy_of_all_worst_margins(norm, bounds, sample_weight):
    found = loss_of(model(SPARSE(from_logits=True), 3), norm, bounds, Y, sample_weight)
    terms = np.log(np.exp(margins(norm, bounds)).sum(axis=-1))
    assert found == pytest.approx(forward_passes.mean(terms, sample_weight), rel=1e-5)
    softmax = model(SPARSE(), 3, activation="softmax")
    assert loss_of(softmax, norm, bounds, Y, sample_weight) == pytest.approx(found, rel=1e-5)


@pytest.mark.exhaustive
@every_norm
def test_cross_entropy_is_an_upper_bound_of_that_of_every_feasible_input(norm):
    network = model(SPARSE(from_logits=True), 3)
    bound = loss_of(network, norm, (0.0, 1.0))
    attack = kr.attacks.PGD(num_steps=20, num_restarts=3)
    reached = attack.run(network, X, Y, getattr(kr, norm)(EPSILON[norm])).loss.mean()
    assert reached <= bound + 1e-5
    # The attacker has one `delta` for both wrong classes.
    assert reached > 0.75 * bound


@every_norm
def test_categorical_hinge_is_exact(norm):
    loss = keras.losses.CategoricalHinge()
    found = loss_of(model(loss, 3), norm, (0.0, 1.0), np.eye(3, dtype="float32")[Y])
    # The worst input is the worst one for one of the classes, or that of the lowest true logit,
    # because Keras has a 0 among the wrong scores.
    lowest = -gain(-KERNEL[:, Y].T, norm, (0.0, 1.0)) + (X @ KERNEL + BIAS)[np.arange(4), Y]
    wrong = np.where(np.eye(3)[Y] > 0, -np.inf, margins(norm, (0.0, 1.0))).max(axis=-1)
    terms = np.maximum(1.0 + np.maximum(wrong, -lowest), 0.0)
    assert found == pytest.approx(np.mean(terms), rel=1e-5)
    points = np.concatenate([worst_points(norm, (0.0, 1.0)).reshape(-1, 4)]).astype("float32")
    rows = np.repeat(np.eye(3, dtype="float32")[Y], 3, axis=0)
    reached = np.asarray(keras.losses.categorical_hinge(rows, points @ KERNEL + BIAS))
    at_class = np.maximum(1.0 + wrong, 0.0) >= terms
    assert at_class.any()
    np.testing.assert_allclose(reached.reshape(4, 3).max(-1)[at_class], terms[at_class], rtol=1e-5)


def test_regularisers_count_once():
    with_penalty = loss_of(model(SPARSE(from_logits=True), 3, penalty=0.1), "Linf", None)
    without = loss_of(model(SPARSE(from_logits=True), 3), "Linf", None)
    assert with_penalty - without == pytest.approx(0.1 * np.sum(KERNEL**2), rel=1e-5)


def test_epsilon_zero_is_the_clean_loss():
    network = model(SPARSE(from_logits=True), 3)
    clean, adversarial = forward_passes.forward_passes(network, X, X, Y, ball=kr.L2(0.0))
    found = kr.objectives.WorstCaseLinear().loss(clean, adversarial)
    assert float(found) == pytest.approx(network.evaluate(X, Y, verbose=0), rel=1e-5)


@every_norm
def test_the_gradient_is_that_of_the_worst_case(norm):
    network = model(LOGISTIC(from_logits=True))
    ball = getattr(kr, norm)(EPSILON[norm])

    def compute():
        pair = forward_passes.forward_passes(network, X, X, BINARY[:, None], ball=ball)
        return kr.objectives.WorstCaseLinear().loss(*pair)

    loss, slopes = gradients.of(compute, network.trainable_weights)
    kernel, bias = slopes

    def objective(size, direction):
        moved = signed_margins(norm, (0.0, 1.0), KERNEL[:, 0] + size * direction[:4])
        return np.mean(np.log1p(np.exp(-moved - size * (2 * BINARY - 1) * direction[4])))

    for direction in _RNG.normal(size=(3, 5)):
        slope = np.sum(kernel[:, 0] * direction[:4]) + float(bias[0]) * direction[4]
        expected = (objective(1e-6, direction) - objective(-1e-6, direction)) / 2e-6
        assert slope == pytest.approx(expected, rel=1e-3, abs=1e-6)


def noisy_data(count=60):
    """The first feature decides, with large steps; the second is right too, by small ones."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, size=count)
    sign = 2 * y - 1
    flipped = np.where(rng.uniform(size=count) < 0.15, -sign, sign)
    first = 0.5 + 0.3 * flipped + 0.05 * rng.normal(size=count)
    second = 0.5 + 0.08 * sign + 0.03 * rng.normal(size=count)
    return np.clip(np.stack([first, second], -1), 0.0, 1.0).astype("float32"), y


def best_weights(x, y, epsilon, loss, penalty):
    """Minimises the robust objective in float64: over `(w, b)`, from several starts."""
    sign = 2.0 * y - 1.0

    def objective(weights):
        w, b = weights[:2], weights[2]
        deltas = np.clip(-epsilon * sign[:, None] * np.sign(w), -x, 1.0 - x)
        worst = sign * (np.sum(w * (x + deltas), axis=-1) + b)
        return np.mean(loss(worst)) + penalty * np.sum(w**2)

    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20000, "maxfev": 20000}
    starts = ([1.0, 1.0, 0.0], [5.0, -1.0, -3.0], [0.5, 8.0, -4.0])
    results = [
        optimize.minimize(objective, s, method="Nelder-Mead", options=options) for s in starts
    ]
    return min(results, key=lambda result: result.fun), objective


@pytest.mark.exhaustive
@tiers.parametrize(
    "keras_loss,loss",
    [
        (LOGISTIC(from_logits=True), lambda m: np.log1p(np.exp(-m))),
        (keras.losses.Hinge(), lambda m: np.maximum(1.0 - m, 0.0)),
    ],
    ids=["logistic", "hinge"],
)
def test_training_ends_at_the_robust_optimum(keras_loss, loss):
    x, y = noisy_data()
    epsilon, penalty = 0.12, 0.01
    best, objective = best_weights(x.astype("float64"), y, epsilon, loss, penalty)
    standard, _ = best_weights(x.astype("float64"), y, 0.0, loss, penalty)
    # The robust model ignores the second feature, and the standard model relies on it.
    assert abs(standard.x[1]) > 0.4 * abs(standard.x[0])
    assert abs(best.x[1]) < 0.1 * abs(best.x[0])

    head = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(penalty))
    network = keras.Sequential([keras.Input((2,)), head])
    steps = keras.optimizers.schedules.CosineDecay(0.5, 400, alpha=0.001)
    network.compile(keras.optimizers.Adam(steps), keras_loss)
    robust = kr.AdvTrain(kr.Linf(epsilon), objective="worst_case_linear", warmup=0)
    batches = np.tile(x, (400, 1)), np.tile(y, 400)[:, None]
    network.fit(*batches, batch_size=60, shuffle=False, verbose=0, callbacks=[robust])
    kernel, bias = head.get_weights()
    found = np.array([*kernel[:, 0], bias[0]], "float64")
    assert objective(found) == pytest.approx(best.fun, rel=1e-3)
    np.testing.assert_allclose(found, best.x, rtol=0.02, atol=0.02)
    certified = kr.certification.exact_linear(network, x, y, kr.Linf(epsilon))
    sign = 2 * y - 1
    deltas = np.clip(-epsilon * sign[:, None] * np.sign(found[:2]), -x, 1.0 - x)
    margin = -sign * ((x + deltas) @ found[:2] + found[2])
    np.testing.assert_allclose(certified.margin, margin, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
@backends.with_and_without_xla
@tiers.parametrize("norm", EPSILON)
def test_one_step_of_fit(norm, jit_compile):
    network = model(SPARSE(from_logits=True), 3)
    arguments = {"metrics": ["accuracy"], "jit_compile": jit_compile}
    network.compile(keras.optimizers.SGD(0.1), SPARSE(from_logits=True), **arguments)
    expected = loss_of(network, norm, (0.0, 1.0))
    robust = kr.AdvTrain(getattr(kr, norm)(EPSILON[norm]), objective="worst_case_linear", warmup=0)
    history = network.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[robust]).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"accuracy", "loss"}


def check(network):
    return kr.objectives.WorstCaseLinear().check(network, kr.Linf(0.1))


@pytest.mark.parametrize(
    "layer", [keras.layers.Dense(4, activation="relu"), keras.layers.Dropout(0.2)]
)
def test_a_model_that_is_not_affine_is_refused_before_training(layer):
    network = model(SPARSE(from_logits=True), 3, layers=[layer])
    robust = kr.AdvTrain(objective="worst_case_linear")
    with refusals.assert_refused("known for models whose logits are affine.*Received", network):
        network.fit(X, Y, verbose=0, callbacks=[robust])


def test_label_smoothing_is_refused():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    with refusals.assert_refused("without label smoothing. Received: label_smoothing=0.1"):
        check(model(loss, 3))


def test_a_model_whose_input_is_not_known_is_refused():
    class Plain(keras.Model):
        def call(self, x):
            return x

    network = Plain()
    network.compile("sgd", "hinge")
    with pytest.raises(ValueError, match="starts with keras.Input.*Received: a Plain with inputs"):
        check(network)
    network = keras.Sequential([keras.Input((None, 3)), keras.layers.GlobalAveragePooling1D()])
    network.compile("sgd", SPARSE(from_logits=True))
    with refusals.assert_refused(r"with inputs of shape \[\(None, 3\)\]"):
        check(network)


@pytest.mark.exhaustive
def test_labels_of_minus_one_are_refused_under_a_hinge():
    message = "Keras turns 0 and 1 into the -1 and 1 of the hinge.*labels from -1 to 1"
    robust = kr.AdvTrain(objective="worst_case_linear")
    with refusals.assert_refused(message):
        model("hinge").fit(X, 2 * BINARY[:, None] - 1, verbose=0, callbacks=[robust])


def test_a_network_that_starts_at_zero_is_refused():
    hidden = keras.layers.Dense(8, activation="relu")
    head = keras.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), hidden, head])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [np.array(w) for w in model.trainable_weights]
    with pytest.raises(ValueError, match="affine in the input"):
        kr.objectives.WorstCaseLinear().check(model, kr.Linf(0.1))
    for old, new in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)
