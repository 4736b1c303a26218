import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import double_backprop
from tests.support import forward_passes
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

VirtualAdversarial = kr.attacks.VirtualAdversarial
SEED = np.array([3, 4], "int32")
EPSILON = {"Linf": 0.05, "L2": 0.2, "L1": 0.3}


def _found(attack, ball, model=None, x=None, y=None, keep_best=False):
    x = numpy_reference.examples()[0] if x is None else x
    classifier = models.Classifier(model or numpy_reference.keras_model())
    x = keras.ops.convert_to_tensor(x)
    return attack.search(kr.attacks.SearchProblem(classifier, x, y, ball, SEED, keep_best))


def _direction(x, num_steps, xi):
    """Returns the direction of the paper in float64."""
    x = x.astype("float64")
    p = np.exp(forward_passes.log_softmax(double_backprop.forward(double_backprop.WEIGHTS, x)[0]))
    d = np.asarray(backend.normal(x.shape, SEED), "float64")
    for _ in range(num_steps):
        d = d / np.linalg.norm(d, axis=-1, keepdims=True)
        z, jacobian = double_backprop.forward(double_backprop.WEIGHTS, x + xi * d)
        d = np.einsum("nc,ncf->nf", np.exp(forward_passes.log_softmax(z)) - p, jacobian)
    return d


@tiers.parametrize("bounds", [None, (0.2, 0.8)])
@tiers.parametrize("norm", EPSILON)
@tiers.parametrize(("num_steps", "xi"), [(1, 1e-3), (1, 0.5), (3, 1e-3)])
def test_is_the_search_of_the_paper(num_steps, xi, norm, bounds):
    x = np.clip(numpy_reference.examples()[0], *(bounds or (0.0, 1.0)))
    direction = _direction(x, num_steps, xi)
    moved = numpy_reference.step(x.astype("float64"), direction, norm, EPSILON[norm], bounds)
    expected = numpy_reference.project(moved, x.astype("float64"), norm, EPSILON[norm], bounds)
    ball = getattr(kr.threat_models, norm)(EPSILON[norm], bounds)
    found = _found(VirtualAdversarial(num_steps=num_steps, xi=xi), ball, x=x)
    # At a small distance the divergence has few correct digits in float32.
    tolerance = 1.5e-3 if xi < 0.01 and norm == "L2" else 2e-6
    np.testing.assert_allclose(found.x_adv, expected, rtol=0, atol=tolerance)
    assert not np.any(found.zero_gradient)


def test_defaults():
    ball = kr.L2(0.2)
    expected = _found(VirtualAdversarial(num_steps=1, xi=1e-3), ball).x_adv
    np.testing.assert_array_equal(_found(VirtualAdversarial(), ball).x_adv, expected)


def test_many_steps_find_the_direction_of_largest_curvature():
    x = numpy_reference.examples()[0]
    z, jacobian = double_backprop.forward(double_backprop.WEIGHTS, x.astype("float64"))
    p = np.exp(forward_passes.log_softmax(z))
    curvature = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    curvature = np.einsum("ncf,ncd,ndg->nfg", jacobian, curvature, jacobian)
    values, vectors = np.linalg.eigh(curvature)
    delta = _found(VirtualAdversarial(num_steps=30), kr.L2(1.0, None), x=x).x_adv - x
    cosine = np.abs(np.sum(delta * vectors[:, :, -1], axis=-1))
    assert np.all(values[:, -2] < 0.9 * values[:, -1])
    np.testing.assert_allclose(cosine, 1.0, rtol=0, atol=1e-3)


def test_a_linear_model_has_a_closed_form():
    # With two classes the curvature has a single direction, the difference of the weights.
    weights = np.array([[3.0, -1.0], [1.0, 2.0], [0.5, 1.5]], "float32")
    x = np.random.default_rng(1).uniform(size=(5, 3)).astype("float32")
    ascent = weights[:, 0] - weights[:, 1]
    for norm, expected in (
        ("L2", 0.1 * np.abs(ascent) / np.linalg.norm(ascent)),
        ("Linf", np.full(3, 0.1)),
        ("L1", [0.1, 0.0, 0.0]),
    ):
        ball = getattr(kr.threat_models, norm)(0.1, None)
        delta = _found(VirtualAdversarial(), ball, lambda x: x @ weights, x).x_adv - x
        np.testing.assert_allclose(np.abs(delta), np.tile(expected, (5, 1)), rtol=0, atol=1e-4)
        signs = np.sign(delta * ascent)
        assert np.all((signs == signs[:, :1]) | (delta == 0.0))


@pytest.mark.parametrize("y", [np.full(5, -1), np.array([0, 1, 2, 0, 1])])
def test_labels_do_not_change_the_search(y):
    ball = kr.L2(0.2)
    expected = _found(VirtualAdversarial(), ball).x_adv
    np.testing.assert_array_equal(_found(VirtualAdversarial(), ball, y=y).x_adv, expected)


def test_examples_do_not_mix():
    x = numpy_reference.examples()[0]
    ball = kr.L2(0.2)
    expected = _found(VirtualAdversarial(), ball).x_adv
    far = np.concatenate([x[:1], 50.0 * x[1:]])
    found = _found(VirtualAdversarial(), kr.L2(0.2, None), x=far).x_adv
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)


def test_a_zero_gradient_is_reported_and_moves_nothing():
    x = np.array([[0.2, 0.4], [0.6, 0.1]], "float32")
    # The model is flat at the first example only.
    model = lambda x: keras.ops.maximum(x - 0.5, 0.0) * np.array([3.0, -1.0], "float32")  # noqa: E731
    found = _found(VirtualAdversarial(num_steps=3), kr.L2(0.2), model, x)
    np.testing.assert_array_equal(found.zero_gradient, [True, False])
    np.testing.assert_array_equal(found.x_adv[0], x[0])
    assert np.linalg.norm(found.x_adv[1] - x[1]) == pytest.approx(0.2, rel=1e-4)


def test_one_nonzero_gradient_is_enough_not_to_report_zero_gradients():
    calls = []

    def fading(x):
        calls.append(x)
        return x * np.array([3.0, -1.0], "float32") * (len(calls) < 3)

    x = np.array([[0.2, 0.4]], "float32")
    found = _found(VirtualAdversarial(num_steps=2), kr.L2(0.2), fading, x)
    assert len(calls) == 3
    np.testing.assert_array_equal(found.zero_gradient, [False])
    np.testing.assert_array_equal(found.x_adv, x)


def test_on_data_it_keeps_the_larger_divergence_and_mistakes():
    x, y = numpy_reference.examples()
    ball = kr.L2(0.4, None)
    moved = _found(VirtualAdversarial(), ball).x_adv
    y = np.where(np.arange(5) == 2, (y + 1) % 3, y)  # A mistake from the start.
    found = _found(VirtualAdversarial(), ball, y=y, keep_best=True)
    np.testing.assert_array_equal(found.x_adv[2], x[2])
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(
        np.asarray(found.x_adv)[others], np.asarray(moved)[others], atol=1e-6
    )
    z, z_adv = (numpy_reference.logits(np.asarray(a, "float64")) for a in (x, found.x_adv))
    np.testing.assert_allclose(
        found.loss, forward_passes.kl_divergence(z, z_adv), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_array_equal(found.success, np.argmax(z_adv, axis=-1) != y)


@pytest.mark.parametrize("num_steps", [0, 1.0])
def test_wrong_number_of_steps(num_steps):
    message = f"must be an int >= 1. Received: num_steps={num_steps}"
    refusals.assert_argument_refused(VirtualAdversarial, message, num_steps=num_steps)


@pytest.mark.parametrize("xi", [0.0, -1e-3, float("inf"), "1e-3"])
def test_wrong_xi(xi):
    refusals.assert_argument_refused(
        VirtualAdversarial, f"must be a positive number. Received: xi={xi!r}", xi=xi
    )
