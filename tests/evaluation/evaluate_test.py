import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_robust as kr
from tests.support import linear_model
from tests.support import models

EPSILON = {"Linf": 0.06, "L2": 0.2, "L1": 0.5}
BALL = kr.Linf(0.3)

# The model is right where the first coordinate is above 0.5; the last example is a mistake.
X = np.array([[0.9, 0.2], [0.7, 0.4], [0.75, 0.5], [0.1, 0.5], [0.6, 0.0]], "float32")
Y = np.array([1, 1, 1, 0, 0])
FALLS = np.array([-1.0, -1.0, -1.0, 1.0, 0.0])


def model(x):
    return keras.ops.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1)


class Fixed(kr.attacks.Attack):
    """Finds what it was told to find, and claims what it was told to claim."""

    def __init__(self, moves, name="Fixed", claim=True, blind=None):
        self.moves = np.asarray(moves, "float32")
        self.name = name
        self.claim = claim
        self.blind = blind

    def get_config(self):
        return {"name": self.name}

    def run(self, model, x, y, threat_model, *, batch_size=256, seed=0, verbose=False):
        delta = np.zeros_like(x)
        delta[:, 0] = self.moves
        claim = np.full(len(x), self.claim)
        blind = np.zeros(len(x), bool) if self.blind is None else np.asarray(self.blind)
        return kr.attacks.Found(x + delta, np.zeros(len(x), "float32"), claim, blind)


def _evaluate(attacks, **arguments):
    return kr.evaluate(model, (X, Y), BALL, attacks, **arguments)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_linear_model_has_its_exact_robust_accuracy(norm, bounds):
    x, y = linear_model.examples(80)
    y = y.copy()
    y[:7] = 1 - y[:7]
    epsilon = EPSILON[norm]
    worst = linear_model.margin(linear_model.best(x, y, norm, epsilon, bounds), y)
    clean = linear_model.margin(x, y)
    assert np.min(np.abs(worst)) > 1e-4
    ball = getattr(kr, norm)(epsilon, bounds)
    # From a random start, whose path is 2.5 epsilon long, PGD ends a little short of the optimum.
    attack = kr.attacks.PGD(num_steps=10, random_start=False)
    report = kr.evaluate(linear_model.keras_model(), (x, y), ball, attack)
    np.testing.assert_array_equal(report.attacks[0].robust, worst < 0)
    assert report.robust_accuracy == np.mean(worst < 0)
    assert report.clean_accuracy == np.mean(clean < 0) == 73 / 80
    assert 0.2 < report.robust_accuracy < 0.8
    if bounds is None:
        dual = {"Linf": 1, "L2": 2, "L1": np.inf}[norm]
        reach = epsilon * np.linalg.norm(linear_model.ascent(y), ord=dual, axis=-1)
        np.testing.assert_array_equal(worst < 0, clean < -reach)


def test_robust_accuracy_is_the_worst_case_of_each_example():
    first, second = Fixed([0.0, -0.3, 0.0, 0.0, 0.0]), Fixed([0.0, 0.0, -0.3, 0.0, 0.0])
    report = _evaluate([first, second])
    assert report.clean_accuracy == 0.8
    assert [attack.accuracy for attack in report.attacks] == pytest.approx([0.6, 0.6])
    assert report.robust_accuracy == pytest.approx(0.4)
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(report.attacks[1].robust, [1, 1, 0, 1, 0])


@pytest.mark.parametrize("move", [-0.3, 0.3])
def test_a_mistake_is_not_robust_even_if_an_attack_mends_it(move):
    report = _evaluate(Fixed([0.0, 0.0, 0.0, 0.0, move]))
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 1, 1, 1, 0])
    assert report.robust_accuracy == 0.8
    # Its adversarial example stays the mistake that it was.
    np.testing.assert_array_equal(report.x_adv, report.x)


def test_success_is_verified_and_not_believed():
    moves = [0.3 * FALLS[0], 0.3 * FALLS[1], 0.01, 0.0, 0.0]
    for claim in (False, True):
        report = _evaluate(Fixed(moves, claim=claim))
        np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 1, 1, 0])


@pytest.mark.parametrize("far", [-0.31, np.nan])
def test_infeasible_examples_are_not_believed(far):
    report = _evaluate([Fixed([0.0, far, far, 0.0, 0.0]), Fixed([0.0, 0.0, -0.3, 0.0, 0.0])])
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 1, 1, 1, 0])
    assert report.robust_accuracy == pytest.approx(0.6)
    assert len(report.warnings) == 1
    assert "left the threat model on 2 examples, which are counted as not" in report.warnings[0]
    np.testing.assert_allclose(report.x_adv[:, 0], X[:, 0] - [0, 0, 0.3, 0, 0], rtol=1e-6)


def test_the_box_is_part_of_the_threat_model():
    report = kr.evaluate(model, (X, Y), kr.Linf(0.3, (0.0, 0.95)), Fixed([0.2, 0, 0, 0, 0]))
    assert "on 1 examples" in report.warnings[0]


def test_the_strongest_feasible_example_is_kept():
    attacks = [
        Fixed([-0.1, -0.1, -0.3, 0.30, 0.0]),
        Fixed([-0.3, -0.2, -0.2, 0.35, 0.0]),
        Fixed([0.1, 0.3, -0.1, 0.10, 0.0]),
    ]
    report = _evaluate(attacks)
    np.testing.assert_allclose(
        report.x_adv[:, 0], X[:, 0] + [-0.3, -0.2, -0.3, 0.3, 0.0], rtol=1e-6
    )
    np.testing.assert_array_equal(report.x_adv[:, 1], X[:, 1])
    np.testing.assert_allclose(report.adv_logits, np.asarray(model(report.x_adv)), rtol=1e-6)
    np.testing.assert_allclose(report.logits, np.asarray(model(X)), rtol=1e-6)
    np.testing.assert_array_equal(report.x, X)
    np.testing.assert_array_equal(report.y, Y)


@pytest.mark.parametrize("robust", range(5))
def test_confidence_is_the_clopper_pearson_interval(robust):
    moves = 0.3 * FALLS
    moves[:robust] = 0.0
    x = X.copy()
    x[[0, 3], 0] = 0.7, 0.3
    report = kr.evaluate(model, (x, Y), BALL, Fixed(moves))
    assert report.robust_accuracy == pytest.approx(robust / 5)
    low = scipy.stats.beta.ppf(0.025, robust, 6 - robust) if robust else 0.0
    high = scipy.stats.beta.ppf(0.975, robust + 1, 5 - robust)
    assert report.confidence == pytest.approx((low, high), abs=1e-9)


def test_the_interval_of_a_perfect_model_ends_at_one():
    report = kr.evaluate(model, (X[:4], Y[:4]), BALL, Fixed([0.0] * 4))
    assert report.confidence == pytest.approx((0.025 ** (1 / 4), 1.0))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_change_the_result(batch_size):
    network = models.convolution()
    x, y = models.images(network, 12)
    suite = [kr.attacks.PGD(num_steps=2, num_restarts=2), "fgsm"]
    expected = kr.evaluate(network, (x, y), kr.Linf(0.05), suite, batch_size=5, seed=3)
    found = kr.evaluate(network, (x, y), kr.Linf(0.05), suite, batch_size=batch_size, seed=3)
    for one, other in zip(found.attacks, expected.attacks, strict=True):
        np.testing.assert_array_equal(one.robust, other.robust)
    np.testing.assert_allclose(found.x_adv, expected.x_adv, atol=1e-6)
    assert 0.0 < found.robust_accuracy < found.clean_accuracy


def test_the_seed_is_recorded_and_decides_the_random_starts():
    network = models.convolution()
    data = models.images(network)
    attack = kr.attacks.PGD(num_steps=1)
    first, again, other = (
        kr.evaluate(network, data, kr.Linf(0.05), attack, seed=seed) for seed in (3, 3, 4)
    )
    assert (first.seed, other.seed) == (3, 4)
    np.testing.assert_array_equal(first.x_adv, again.x_adv)
    assert np.any(first.x_adv != other.x_adv)


@pytest.mark.parametrize(
    "data",
    [
        [X, Y],
        (X, Y, np.ones(5)),
        (tf.constant(X), tf.constant(Y)),
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        (batch for batch in [(X[:3], Y[:3]), (X[3:], Y[3:])]),
        (X.astype("float64"), np.eye(2)[Y]),
        (X, Y[:, None]),
    ],
)
def test_forms_of_data(data):
    report = kr.evaluate(model, data, BALL, Fixed(0.3 * FALLS))
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])
    assert report.num_examples == 5
    assert report.num_classes == 2


@pytest.mark.parametrize("batched", [False, True])
def test_num_examples_takes_the_first(batched):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2) if batched else (X, Y)
    report = kr.evaluate(model, data, BALL, Fixed([0.0, -0.3, 0.0]), num_examples=3)
    np.testing.assert_array_equal(report.x, X[:3])
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 1])
    assert report.num_examples == 3


def test_what_was_done_is_recorded():
    report = _evaluate([kr.attacks.PGD(num_steps=2, step_size="1/50", loss="margin"), "fgsm"])
    assert [attack.name for attack in report.attacks] == ["PGD", "FGSM"]
    expected = kr.attacks.PGD(num_steps=2, step_size="1/50", loss="margin").get_config()
    assert report.attacks[0].settings == expected
    config = {"epsilon": 0.3, "bounds": [0.0, 1.0]}
    assert report.threat_model == {"class_name": "Linf", "config": config, "epsilon": 0.3}
    assert report.versions["keras_robust"] == kr.__version__
    assert report.versions["keras"] == keras.__version__
    assert 0.0 < sum(attack.seconds for attack in report.attacks) <= report.seconds


def test_settings_are_what_json_can_hold():
    def my_loss(y, logits):
        return kr.losses.margin(y, logits)

    report = _evaluate(kr.attacks.PGD(num_steps=1, loss=my_loss))
    assert report.attacks[0].settings["loss"] == "my_loss"


def test_models_with_a_loss_of_their_own():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.set_weights([np.array([[-1.0, 1.0], [0.0, 0.0]]), np.array([0.5, -0.5])])
    network.compile("sgd", kr.losses.Margin())
    report = kr.evaluate(network, (X, Y), BALL, "bim")
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])


def test_standard_attacks():
    suite = kr.evaluation.standard_attacks()
    common = {"num_steps": 50, "num_restarts": 10, "random_start": True, "targeted": False}
    assert [attack.loss for attack in suite] == ["cross_entropy", "margin"]
    for attack in suite:
        assert isinstance(attack, kr.attacks.PGD)
        assert common.items() <= attack.get_config().items()
    report = _evaluate("standard")
    # Two steps of 0.3 are enough for 0.7 and 0.75, and not for 0.9 and 0.1.
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])
    assert [attack.settings["num_restarts"] for attack in report.attacks] == [10, 10]


def test_names_are_resolved():
    report = kr.evaluate(model, (X, Y), "linf", "fgsm")
    assert report.threat_model["config"]["epsilon"] == "8/255"
    assert report.attacks[0].name == "FGSM"


def test_the_model_is_left_as_it_was():
    network = models.convolution()
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = models.images(network)
    before = network.get_weights()
    state = {key: id(value) for key, value in vars(network).items() if "function" in key}
    kr.evaluate(network, data, kr.Linf(0.05), kr.attacks.PGD(num_steps=2))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert state == {key: id(value) for key, value in vars(network).items() if "function" in key}
    assert all(layer.trainable for layer in network.layers)
    assert int(network.optimizer.iterations) == 0


def _saturated(x):
    """Probabilities that are exactly 0 and 1, so that every gradient is zero."""
    return tf.nn.softmax(1000.0 * tf.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1))


def test_saturated_probabilities_are_reported():
    x = np.array([[0.9, 0.2], [0.7, 0.4], [0.1, 0.5]], "float32")
    report = kr.evaluate(_saturated, (x, np.array([1, 1, 1])), kr.Linf(0.1), "bim")
    assert report.attacks[0].zero_gradient == 1.0
    assert report.robust_accuracy == pytest.approx(2 / 3)
    assert len(report.warnings) == 2
    assert report.warnings[0].startswith("The outputs look like probabilities: every row is posit")
    assert "saw only zero gradients on 100.0% of the examples" in report.warnings[1]


def test_blindness_is_counted_where_the_model_is_right():
    report = _evaluate(Fixed([0.0] * 5, blind=[True, False, False, False, True]))
    assert report.attacks[0].zero_gradient == 0.25
    assert "zero gradients on 25.0% of the examples" in report.warnings[0]
    assert _evaluate(Fixed([0.0] * 5, blind=[False] * 4 + [True])).warnings == []


def test_honest_models_are_not_warned_about():
    logits = kr.evaluate(lambda x: 10.0 * model(x), (X, Y), BALL, kr.attacks.PGD(num_steps=2))
    assert logits.warnings == []
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax")])
    network.compile("sgd", "sparse_categorical_crossentropy")
    assert kr.evaluate(network, (X, Y), BALL, kr.attacks.PGD(num_steps=2)).warnings == []


def test_verbose_names_the_attacks(capsys):
    _evaluate([kr.attacks.FGSM()], verbose=True)
    assert capsys.readouterr().out.startswith(f"{kr.attacks.FGSM()}\n")
    _evaluate([kr.attacks.FGSM()])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"attacks": kr.attacks.PGD(targeted=True)}, "have no target labels.*Received: PGD"),
        ({"attacks": []}, r"at least one attack. Received: attacks=\[\]"),
        ({"attacks": "pdg"}, "Unknown attack.*Received: 'pdg'"),
        ({"threat_model": "l3"}, "Unknown threat model"),
        ({"data": (X[:0], Y[:0])}, r"at least one example.*Received: x of shape \(0, 2\)"),
        ({"data": []}, "at least one example. Received: empty data"),
        ({"data": [X]}, "batches .x, y., with labels. Received: a batch of type ndarray"),
        ({"data": (X, Y[:4])}, r"one label per example. Received: 5 examples, labels of shape .4"),
        ({"data": (X, Y + 1)}, "class indices from 0 to 1. Received: labels from 1 to 2"),
        ({"data": (X, Y - 1)}, "class indices from 0 to 1. Received: labels from -1 to 0"),
        ({"data": (255 * X, Y)}, r"lie in the bounds.*Received: values in \[0, 229.5\]"),
        ({"data": (np.full((5, 2), np.nan), Y)}, "finite. Received: 10 NaN"),
        ({"num_examples": 0}, "`num_examples` must be at least 1. Received: num_examples=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    arguments = {"data": (X, Y), "threat_model": BALL, "attacks": "fgsm", **arguments}
    with pytest.raises(ValueError, match=message):
        kr.evaluate(model, **arguments)


def test_least_likely_targets_need_no_labels():
    report = _evaluate(kr.attacks.BIM(targeted="least_likely"))
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])


def test_gradients_that_turn_nan_keep_the_attack_feasible_and_are_reported():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.7, size=(100, 4)).astype("float32")
    weights = np.array([[1, -1], [-1, 1], [1, -1], [-1, 1]], "float32")
    y = np.argmax(x @ weights, axis=-1)

    def poisoned(x):
        # The root has no gradient where nothing is above 0.65.
        more = keras.ops.sqrt(keras.ops.sum(keras.ops.relu(x - 0.65) ** 2, axis=-1))
        return 5.0 * keras.ops.matmul(x, weights) + 1e-6 * keras.ops.stack([more, 0 * more], -1)

    honest = kr.evaluate(lambda x: 5.0 * keras.ops.matmul(x, weights), (x, y), kr.Linf(0.1), "bim")
    attack = kr.attacks.PGD(num_steps=20, num_restarts=2)
    found = attack.run(poisoned, x, y, kr.Linf(0.1))
    assert np.isfinite(found.x_adv).all()
    assert np.asarray(kr.Linf(0.1).contains(found.x_adv, x)).all()
    report = kr.evaluate(poisoned, (x, y), kr.Linf(0.1), attack)
    assert honest.robust_accuracy < 0.3
    # The gradient is gone where the attack starts: the number is too high, and the report says so.
    assert any("too high to believe" in warning.replace("\n", " ") for warning in report.warnings)


def test_a_model_that_returns_nan_is_no_model():
    x = np.full((3, 2), 0.5, "float32")
    with pytest.raises(ValueError, match="NaN or infinite.*Received: 3 such examples"):
        kr.evaluate(lambda x: x * np.nan, (x, np.array([0, 1, 0])), kr.Linf(0.1), "fgsm")


def test_logits_under_a_loss_of_probabilities_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, bias_initializer="ones")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    with pytest.raises(ValueError, match="takes probabilities, but the outputs of the model do"):
        kr.evaluate(model, (x, np.zeros(5, "int64")), kr.Linf(0.1), "fgsm")


def test_the_attacks_of_a_suite_start_at_points_of_their_own():
    x = np.full((2, 3), 0.5, "float32")
    starts = []

    class Start(kr.attacks.Attack):
        def run(self, model, x, y, threat_model, *, batch_size, seed, verbose):
            starts.append(seed)
            attack = kr.attacks.PGD(num_steps=1, step_size=1e-6)
            return attack.run(model, x, y, threat_model, batch_size=batch_size, seed=seed)

    kr.evaluate(lambda x: x, (x, np.zeros(2, "int64")), kr.Linf(0.1), [Start(), Start()], seed=3)
    assert starts[0] == 3
    assert starts[1] != 3


def test_accuracy_so_far_is_the_worst_case_up_to_each_attack():
    x = np.random.default_rng(0).uniform(size=(50, 3)).astype("float32")
    y = np.argmax(x, axis=-1)
    suite = [kr.attacks.FGSM(), kr.attacks.PGD(loss="margin")]
    report = kr.evaluate(lambda x: x, (x, y), kr.Linf(0.1), suite)
    first, second = report.attacks
    assert first.accuracy_so_far == first.accuracy
    assert second.accuracy_so_far == report.robust_accuracy <= second.accuracy


def test_large_inputs_may_be_rounded():
    x = np.random.default_rng(0).uniform(1000.0, 1100.0, size=(50, 4)).astype("float32")
    y = np.arange(50) % 4
    report = kr.evaluate(lambda x: x, (x, y), kr.Linf(5, bounds=None), "pgd")
    assert report.warnings == []
