import keras
import numpy as np
import pytest
import scipy.ndimage

import keras_robust as kr
from tests.support import backends
from tests.support import linear_fit
from tests.support import refusals
from tests.support import tiers

Affine = kr.threat_models.Affine
ALL = Affine(rotation=180, translation=2, scale=0.5)


def images(count=3, size=5):
    return np.random.default_rng(3).uniform(size=(count, size, size, 2)).astype("float32")


def shifted(x, down, right):
    """Returns images moved by whole pixels, with zeros where nothing moved to."""
    moved = np.roll(x, (down, right), axis=(1, 2))
    rows, columns = np.arange(x.shape[1]) - down, np.arange(x.shape[2]) - right
    inside = (rows >= 0) & (rows < x.shape[1])
    beside = (columns >= 0) & (columns < x.shape[2])
    return np.where((inside[:, None] & beside)[..., None], moved, np.float32(0.0))


def test_the_identity_returns_the_image_bit_for_bit():
    x = images()
    np.testing.assert_array_equal(ALL.transform(x, np.zeros((3, 4))), x)
    start, classifier, ball = ALL.bind(lambda x: x, x)
    assert tuple(start.shape) == (3, 4) and ball.bounds is None
    np.testing.assert_array_equal(classifier.pack(start), x)


@pytest.mark.parametrize(("share", "turns"), [(0.5, 1), (1.0, 2), (-0.5, 3)])
def test_quarter_turns_are_those_of_numpy(share, turns):
    for x in (images(), images(size=4)):
        found = ALL.transform(x, np.full((3, 4), [share, 0.0, 0.0, 0.0]))
        np.testing.assert_allclose(found, np.rot90(x, turns, axes=(1, 2)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (-2, 1)])
def test_whole_shifts_are_those_of_numpy(down, right):
    x = images()
    found = ALL.transform(x, np.full((3, 4), [0.0, down / 2, right / 2, 0.0]))
    np.testing.assert_array_equal(found, shifted(x, down, right))


def test_half_the_size_keeps_every_second_pixel():
    x = images()
    found = np.asarray(ALL.transform(x, np.full((3, 4), [0.0, 0.0, 0.0, -1.0])))
    expected = np.zeros_like(x)
    expected[:, 1:4, 1:4] = x[:, ::2, ::2]
    np.testing.assert_array_equal(found, expected)


def test_any_parameters_give_the_image_of_scipy():
    x, rng = images(), np.random.default_rng(4)
    shares = rng.uniform(-1.0, 1.0, size=(3, 4))
    found = np.asarray(ALL.transform(x, shares))
    for image, share in enumerate(shares):
        angle, down, right, scale = share * [np.pi, 2.0, 2.0, 0.5]
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        inverse = turn / (1.0 + scale)
        offset = 2.0 - inverse @ (np.array([down, right]) + 2.0)
        for channel in range(2):
            expected = scipy.ndimage.affine_transform(
                x[image, :, :, channel].astype("float64"),
                inverse,
                offset,
                order=1,
                mode="grid-constant",
            )
            np.testing.assert_allclose(found[image, :, :, channel], expected, rtol=0, atol=1e-5)


def test_parameters_without_a_range_are_left_out():
    x = images()
    assert Affine().grid == (31, 5, 5) and ALL.grid == (31, 5, 5, 5)
    assert Affine(30, 0).grid == (31,) and Affine(0, 2, 0.1).grid == (5, 5, 5)
    found = Affine(rotation=0, translation=2).transform(x, np.full((3, 2), [0.5, -1.0]))
    np.testing.assert_array_equal(found, shifted(x, 1, -2))


SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
SHIFT = Affine(rotation=0, translation=1)


def linear_data(count=12):
    """Returns images, a kernel, and the classes of most images."""
    rng = np.random.default_rng(7)
    x, kernel = rng.uniform(size=(count, 4, 4, 1)).astype("float32"), rng.normal(size=(16, 3))
    y = np.argmax(x.reshape(count, 16) @ kernel, axis=-1)
    return x, np.where(np.arange(count) < 2, (y + 1) % 3, y), kernel.astype("float32")


def linear_model(kernel):
    head = keras.layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), head])
    head.set_weights([kernel])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


def logits_of_shifts(x, kernel):
    """Returns the logits of all nine shifts, `(9, n, 3)`."""
    moved = np.stack([shifted(x, *one) for one in SHIFTS])
    return moved, moved.reshape(9, len(x), 16).astype("float64") @ kernel.astype("float64")


def test_evaluation_counts_examples_that_no_point_of_the_grid_breaks():
    x, y, kernel = linear_data()
    _, logits = logits_of_shifts(x, kernel)
    robust = np.all(np.argmax(logits, axis=-1) == y, axis=0)
    assert 3 <= robust.sum() <= 7
    report = kr.evaluate(linear_model(kernel), (x, y), SHIFT, kr.attacks.GridSearch(3))
    np.testing.assert_array_equal(report.robust, robust)
    assert kr.RobustnessReport.from_dict(report.to_dict()).robust_accuracy == robust.mean()


def test_a_training_step_is_on_the_worst_shift():
    x, y, kernel = linear_data()
    moved, logits = logits_of_shifts(x, kernel)
    each = np.arange(len(x))
    margins = np.log(np.sum(np.exp(logits), axis=-1)) - logits[:, each, y]
    worst = np.argmax(margins + 1e3 * (np.argmax(logits, axis=-1) != y), axis=0)
    inputs = moved[worst, each].reshape(len(x), 16).astype("float64")
    error = (linear_fit.softmax(inputs @ kernel) - np.eye(3)[y]) / len(x)
    model = linear_model(kernel)
    callback = kr.AdvTrain(SHIFT, attack=kr.attacks.GridSearch(3), warmup=0)
    model.fit(x, y, batch_size=12, verbose=0, callbacks=[callback])
    expected = kernel - 0.5 * inputs.T @ error
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=0, atol=1e-5)


@pytest.mark.exhaustive
@tiers.parametrize("attack", [kr.attacks.PGD(num_steps=5), kr.attacks.APGD(num_steps=10)])
def test_gradient_attacks_climb_the_loss_whatever_the_batch_size(attack):
    x, y, kernel = linear_data()
    model, ball = linear_model(kernel), Affine(20, 1, 0.1)
    found = attack.run(model, x, y, ball)
    logits = found.x_adv.reshape(len(x), 16) @ kernel
    np.testing.assert_array_equal(found.success, np.argmax(logits, axis=-1) != y)
    before = np.asarray(kr.losses.cross_entropy(y, x.reshape(len(x), 16) @ kernel))
    np.testing.assert_allclose(found.loss, kr.losses.cross_entropy(y, logits), rtol=0, atol=1e-4)
    assert np.all(found.loss[2:] >= before[2:]) and found.loss.mean() > before.mean() + 0.2
    again = attack.run(model, x, y, ball, batch_size=5)
    np.testing.assert_allclose(again.x_adv, found.x_adv, rtol=0, atol=1e-5)


@pytest.mark.exhaustive
def test_standard_is_the_grid_and_apgd():
    x, y, kernel = linear_data()
    report = kr.evaluate(linear_model(kernel), (x, y), SHIFT)
    settings = [(attack.name, attack.settings) for attack in report.attacks]
    assert [name for name, _ in settings] == ["GridSearch", "APGD"]
    assert settings[0][1]["num_values"] == "(5, 5)" and report.suite == "grid"
    assert report.warnings == [] or "Only weak" not in " ".join(report.warnings)


@pytest.mark.exhaustive
def test_a_traced_call_returns_images_of_the_attack():
    x, y, kernel = linear_data()
    attack, model = kr.attacks.GridSearch(3), linear_model(kernel)
    signature = [((None, 4, 4, 1), "float32"), ((None,), "int64")]
    traced = backends.traced(lambda x, y: attack(model, x, y, SHIFT), signature=signature)
    found = np.asarray(traced(x, y))
    moved, _ = logits_of_shifts(x, kernel)
    assert np.all(np.min(np.max(np.abs(moved - found), axis=(2, 3, 4)), axis=0) < 1e-6)


def test_epsilon_is_a_factor_for_all_ranges():
    x = images()
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 10, 1.0)
    for affine in (Affine(epsilon=0.5), Affine(epsilon=schedule).at(5), Affine().scaled(0.5)):
        start, _, ball = affine.bind(lambda x: x, x)
        far = ball.linear_maximization_oracle(np.ones((3, 3), "float32"), start)
        np.testing.assert_allclose(far, np.full((3, 3), 0.5), rtol=1e-6)


def test_contains_checks_the_box():
    x = images()
    x_adv = np.stack([x[0], x[1] + 1.0, x[2] - 1.0])
    np.testing.assert_array_equal(ALL.contains(x_adv, x), [True, False, False])
    np.testing.assert_array_equal(Affine(bounds=None).contains(x_adv, x), [True] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": -1}, "at least 0 and at most 180. Received: rotation=-1"),
        ({"rotation": 200}, "at least 0 and at most 180. Received: rotation=200"),
        ({"rotation": "30"}, "Received: rotation='30'"),
        ({"translation": -3.0}, "finite number, at least 0. Received: translation=-3.0"),
        ({"translation": np.inf}, "finite number, at least 0. Received: translation=inf"),
        ({"scale": 1.0}, "at most 0.99. Received: scale=1.0"),
        ({"scale": np.nan}, "at most 0.99. Received: scale=nan"),
        ({"rotation": 0, "translation": 0}, "range that is not zero.*rotation=0, translation=0"),
        ({"epsilon": 2}, "one factor for all ranges.*Received: epsilon=2"),
        ({"epsilon": [0.5, 1.0]}, r"one factor for all ranges.*Received: epsilon=\[0.5, 1.0\]"),
        ({"bounds": (0.1, 1.0)}, r"must contain 0.*Received: bounds=\(0.1, 1.0\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    with refusals.assert_refused(message):
        Affine(**arguments)


def test_inputs_other_than_images_are_refused():
    x = np.zeros((2, 9), "float32")
    with refusals.assert_refused(r"transforms images.*Received: inputs of shape \(2, 9\)"):
        kr.attacks.PGD()(lambda x: x, x, np.array([0, 1]), Affine())
    with refusals.assert_refused(r"for one tensor.*Received: Affine\(rotation=30.0"):
        kr.threat_models.PerInput({"a": Affine()})


@pytest.mark.parametrize("objective", ["macer", "adversarial_pool"])
def test_objectives_that_copy_inputs_refuse_parameters(objective):
    model = linear_model(linear_data()[2])
    check = kr.objectives.get(objective.replace("_", "")).check
    with refusals.assert_refused(r"parameters of a transformation.*Received: Affine\(", model):
        check(model, Affine())
