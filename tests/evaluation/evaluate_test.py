import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import linear_model
from tests.support import refusals
from tests.support import several_inputs
from tests.support import small_models
from tests.support import terminals
from tests.support import tiers
from tests.support.told import BALL
from tests.support.told import FALLS
from tests.support.told import Fixed
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

EPSILON = {"Linf": 0.06, "L2": 0.2, "L1": 0.5}


def _evaluate(attacks, **arguments):
    return kr.evaluate(model, (X, Y), BALL, attacks, **{"minimum_norm": None, **arguments})


@tiers.parametrize("norm", ["Linf", "L2", "L1"])
@tiers.parametrize("bounds", [None, (0.0, 1.0)])
def test_linear_model_has_its_exact_robust_accuracy(norm, bounds):
    x, y = linear_model.examples(80)
    y = y.copy()
    y[:7] = 1 - y[:7]
    epsilon = EPSILON[norm]
    worst = linear_model.margin(linear_model.best(x, y, norm, epsilon, bounds), y)
    clean = linear_model.margin(x, y)
    assert np.min(np.abs(worst)) > 1e-4
    ball = getattr(kr, norm)(epsilon, bounds)
    # With a random start PGD would end a little short of the optimum: its path is 2.5 epsilon.
    attack = kr.attacks.PGD(num_steps=10, random_start=False)
    report = kr.evaluate(linear_model.keras_model(), (x, y), ball, attack, minimum_norm=None)
    np.testing.assert_array_equal(report.attacks[0].robust, worst < 0)
    assert report.robust_accuracy == np.mean(worst < 0)
    assert report.clean_accuracy == np.mean(clean < 0) == 73 / 80
    assert 0.2 < report.robust_accuracy < 0.8
    if bounds is None:
        dual = {"Linf": 1, "L2": 2, "L1": np.inf}[norm]
        reach = epsilon * np.linalg.norm(linear_model.ascent(y), ord=dual, axis=-1)
        np.testing.assert_array_equal(worst < 0, clean < -reach)


def test_the_whole_standard_evaluation_of_a_linear_model():
    x = np.array(
        [[0.9, 0.2], [0.55, 0.4], [0.7, 0.5], [0.1, 0.5], [0.6, 0.0], [0.38, 1]], "float32"
    )
    y = np.array([1, 1, 1, 0, 0, 0])
    distance = np.where(y == (x[:, 0] > 0.5), np.abs(x[:, 0] - 0.5), 0.0)
    report = kr.evaluate(model, (x, y), kr.Linf(0.15))
    assert report.suite == "AutoAttack standard"
    # APGD breaks all that can be broken, so that the next three attacks get the three others.
    assert [(found.name, found.num_attacked, found.accuracy) for found in report.attacks] == [
        ("APGD", 5, 0.5),
        ("TargetedAPGD", 3, None),
        ("TargetedFAB", 3, None),
        ("Square", 3, None),
        ("TargetedFAB", 5, 0.5),
    ]
    np.testing.assert_array_equal(report.attacks[0].robust, distance > 0.15)
    assert report.robust_accuracy == 0.5 and report.clean_accuracy == pytest.approx(5 / 6)
    np.testing.assert_allclose(report.distances, distance, atol=4e-3)
    np.testing.assert_array_equal(report.distances <= 0.15, distance <= 0.15)
    assert report.median_distance == pytest.approx(np.median(distance), abs=4e-3)
    assert report.curve["attack"] == "TargetedFAB-100 (any radius)"
    assert {check.verdict for check in report.checks} == {"passed"}
    assert report.queries == sum(attack.queries for attack in report.attacks) > 3 * 5000


def test_robust_accuracy_is_the_worst_case_of_each_example():
    first, second = Fixed([0.0, -0.3, 0.0, 0.0, 0.0]), Fixed([0.0, 0.0, -0.3, 0.0, 0.0])
    report = _evaluate([first, second])
    assert report.clean_accuracy == 0.8
    assert [attack.accuracy for attack in report.attacks] == pytest.approx([0.6, 0.6])
    assert report.robust_accuracy == pytest.approx(0.4)
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(report.attacks[1].robust, [1, 1, 0, 1, 0])


@pytest.mark.parametrize("move", [-0.3, 0.3])
def test_a_clean_mistake_is_not_robust_even_if_an_attack_corrects_it(move):
    report = _evaluate(Fixed([0.0, 0.0, 0.0, 0.0, move]))
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 1, 1, 1, 0])
    assert report.robust_accuracy == 0.8
    # The adversarial example is the clean mistake itself.
    np.testing.assert_array_equal(report.x_adv, report.x)


def test_where_everything_is_a_mistake_nothing_is_attacked():
    report = kr.evaluate(model, (X, 1 - Y), BALL, ["fgsm", "pgd"], num_examples=4)
    assert (report.clean_accuracy, report.robust_accuracy) == (0.0, 0.0)
    assert [attack.num_attacked for attack in report.attacks] == [0, 0, 0]
    assert report.queries == 0 and report.median_distance == 0.0
    np.testing.assert_array_equal(report.distances, np.zeros(4))


def test_batch_size_and_order_do_not_change_the_result():
    network = small_models.convolution()
    x, y = small_models.images(network, 12)
    suite = [kr.attacks.PGD(num_steps=2, num_restarts=2), kr.attacks.FGSM()]
    search = kr.attacks.FMN(num_steps=3)
    arguments = {"seed": 3, "minimum_norm": search}
    expected = kr.evaluate(network, (x, y), kr.Linf(0.05), suite, batch_size=5, **arguments)
    assert 0.0 < expected.robust_accuracy < expected.clean_accuracy
    for batch_size in (1, 7, 1000):
        found = kr.evaluate(
            network, (x, y), kr.Linf(0.05), suite, batch_size=batch_size, **arguments
        )
        assert found.batch_size == batch_size
        for one, other in zip(found.attacks, expected.attacks, strict=True):
            np.testing.assert_array_equal(one.robust, other.robust)
            assert one.queries == other.queries
        np.testing.assert_allclose(found.x_adv, expected.x_adv, atol=1e-6)
        np.testing.assert_allclose(found.distances, expected.distances, atol=1e-5)


def test_the_seed_is_recorded_and_decides_the_random_starts():
    network = small_models.convolution()
    data = small_models.images(network)
    attack = kr.attacks.PGD(num_steps=1)
    first, again, other = (
        kr.evaluate(network, data, kr.Linf(0.05), attack, seed=seed, minimum_norm=None)
        for seed in (3, np.int64(3), 4)
    )
    assert (first.seed, again.seed, other.seed) == (3, 3, 4)
    np.testing.assert_array_equal(first.x_adv, again.x_adv)
    assert np.any(first.x_adv != other.x_adv)


@pytest.mark.parametrize(
    "data",
    [
        [X, Y],
        (X, Y, np.ones(5)),
        (keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y)),
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        (batch for batch in [(X[:3], Y[:3]), (X[3:], Y[3:])]),
        (X.astype("float64"), np.eye(2)[Y]),
        (X, Y[:, None]),
        ({"features": X}, {"class": Y}),
    ],
)
def test_forms_of_data(data):
    report = kr.evaluate(model, data, BALL, Fixed(0.3 * FALLS), minimum_norm=None)
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(report.y, Y)
    assert report.num_examples == 5
    assert report.num_classes == 2


@pytest.mark.parametrize("batched", [False, True])
def test_num_examples_takes_the_first(batched):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2) if batched else (X, Y)
    attack = Fixed([0.0, -0.3, 0.0, 0.3, 0.0])
    report = kr.evaluate(model, data, BALL, attack, num_examples=3, minimum_norm=None)
    np.testing.assert_array_equal(report.x, X[:3])
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 1])
    assert report.num_examples == 3


def test_the_report_records_the_settings():
    suite = [kr.attacks.PGD(num_steps=2, step_size="1/50", loss="margin"), "fgsm"]
    report = _evaluate(suite, batch_size=3)
    assert [attack.name for attack in report.attacks] == ["PGD", "FGSM"]
    expected = kr.attacks.PGD(num_steps=2, step_size="1/50", loss="margin").get_config()
    assert report.attacks[0].settings == expected
    config = {"epsilon": 0.3, "bounds": [0.0, 1.0]}
    assert report.threat_model == {"class_name": "Linf", "config": config, "epsilon": 0.3}
    assert report.versions["keras_robust"] == kr.__version__
    assert report.versions["keras"] == keras.__version__
    assert 0.0 < sum(attack.seconds for attack in report.attacks) <= report.seconds
    assert (report.suite, report.batch_size, report.curve) == (None, 3, None)
    assert kr.evaluation.RobustnessReport.from_dict(report.to_dict()) == report


def test_names_and_functions_as_losses():
    def my_loss(y, logits):
        return kr.losses.margin(y, logits)

    suite = ["fgsm", kr.attacks.PGD(num_steps=1, loss=my_loss)]
    report = kr.evaluate(model, (X, Y), "linf", suite, minimum_norm=None)
    assert report.threat_model["config"]["epsilon"] == "8/255"
    assert report.attacks[0].name == "FGSM"
    assert report.attacks[1].settings["loss"] == "my_loss"


def test_models_with_a_custom_loss():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.set_weights([np.array([[-1.0, 1.0], [0.0, 0.0]]), np.array([0.5, -0.5])])
    network.compile("sgd", kr.losses.Margin())
    attack = kr.attacks.BIM(num_steps=3)
    report = kr.evaluate(network, (X, Y), BALL, attack, minimum_norm=None)
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])


def test_the_model_does_not_change():
    network = small_models.convolution()
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = small_models.images(network)
    before = network.get_weights()
    state = {key: id(value) for key, value in vars(network).items() if "function" in key}
    search = kr.attacks.FMN(num_steps=2)
    suite = [kr.attacks.PGD(num_steps=2), kr.attacks.Square(num_queries=3)]
    kr.evaluate(network, data, kr.Linf(0.05), suite, minimum_norm=search)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert state == {key: id(value) for key, value in vars(network).items() if "function" in key}
    assert all(layer.trainable for layer in network.layers)
    assert int(network.optimizer.iterations) == 0


def test_verbose_names_the_attacks(capsys):
    _evaluate([kr.attacks.FGSM()], verbose=True)
    printed = capsys.readouterr().out
    assert printed.startswith("[1/1] FGSM, 4 examples\n") and printed.count("FGSM") == 1
    for verbose in (False, "auto"):
        _evaluate([kr.attacks.FGSM()], verbose=verbose)
        assert capsys.readouterr().out == ""


def test_progress_is_shown_in_a_terminal_in_100_columns(monkeypatch):
    attacks = [kr.attacks.PGD(num_steps=1, num_restarts=12), kr.attacks.TargetedFAB(num_targets=1)]
    terminal = terminals.Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    _evaluate(attacks, minimum_norm="auto")
    lines = terminal.lines()
    assert [line for line in lines if line.startswith("[")] == [
        "[1/3] PGD, 4 examples x 12 restarts",
        "[2/3] TargetedFAB, 4 examples",
        "[3/3] TargetedFAB (any radius), 4 examples",
    ]
    assert len(lines) == 6 and max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"attacks": kr.attacks.PGD(targeted=True)}, "have no target labels.*Received: PGD"),
        ({"attacks": []}, r"at least one attack. Received: attacks=\[\]"),
        ({"attacks": "pdg"}, "Unknown attack.*Received: 'pdg'"),
        ({"attacks": kr.attacks.NFGSM()}, "may leave the ball.*Received: NFGSM"),
        (
            {"minimum_norm": "pgd"},
            "minimum-norm attack, such as .fmn.*Received: minimum_norm='pgd'",
        ),
        ({"minimum_norm": "fnm"}, "Unknown attack.*Received: 'fnm'"),
        ({"threat_model": "l3"}, "Unknown threat model"),
        ({"data": (X[:0], Y[:0])}, r"at least one example.*Received: x of shape \(0, 2\)"),
        ({"data": []}, "at least one example. Received: empty data"),
        ({"data": [X]}, "batches .x, y., with labels. Received: a batch of type ndarray"),
        ({"data": (X, Y[:4])}, r"one label per example. Received: 5 examples, labels of shape .4"),
        ({"data": (X, Y + 1)}, "class indices from 0 to 1, as.*Received: labels from 1 to 2"),
        (
            {"data": (X, np.eye(3)[Y])},
            r"2 classes of the model.*Received: labels of shape \(5, 3\)",
        ),
        ({"data": (255 * X, Y)}, r"lie in the bounds.*Received: values in \[0, 229.5\]"),
        ({"data": (np.full((5, 2), np.nan), Y)}, "finite. Received: 10 NaN"),
        ({"num_examples": 0}, "`num_examples` must be an int >= 1. Received: 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    arguments = {"data": (X, Y), "threat_model": BALL, "attacks": "fgsm", **arguments}
    with refusals.assert_refused(message):
        kr.evaluate(model, **arguments)


def test_a_model_that_returns_nan_is_refused():
    with refusals.assert_refused("NaN or infinite.*Received: 3 such examples"):
        kr.evaluate(lambda x: x * np.nan, (X[:3], Y[:3]), BALL, "fgsm")


def test_logits_under_a_loss_of_probabilities_are_refused():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, bias_initializer="ones")])
    network.compile("sgd", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    with refusals.assert_refused("takes probabilities, but the outputs of the model do", network):
        kr.evaluate(network, (x, np.zeros(5, "int64")), kr.Linf(0.1), "fgsm")


@pytest.mark.exhaustive
def test_a_model_without_gradients_needs_other_attacks():
    def rounded(x):
        return keras.ops.round(10.0 * model(x) + 0.1)

    def no_gradient(x):
        return keras.ops.stop_gradient(rounded(x))

    for attacks in ("standard", "fgsm", ["fgsm", "square"]):
        with pytest.raises(ValueError, match="no gradient with respect to its input.*Received"):
            kr.evaluate(no_gradient, (X, Y), BALL, attacks)
    # Three of the four correct examples can be broken; the curve needs gradients.
    report = kr.evaluate(no_gradient, (X, Y), BALL, "black_box", num_examples=4)
    assert report.suite == "black box"
    assert [attack.name for attack in report.attacks] == ["RandomNoise", "Square"]
    np.testing.assert_array_equal(report.attacks[-1].robust, [1, 0, 0, 1])
    assert report.robust_accuracy == 0.5
    assert report.curve is report.distances is report.median_distance is None


def test_least_likely_targets_need_no_labels():
    report = _evaluate(kr.attacks.BIM(num_steps=3, targeted="least_likely"))
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0, 1, 0])


@pytest.mark.exhaustive
def test_several_inputs_with_their_own_balls():
    def network(x):
        scores = keras.ops.sum(x["a"], axis=-1) + keras.ops.sum(x["b"], axis=(1, 2))
        return keras.ops.stack([0.0 * scores, scores - 2.0], axis=-1)

    flat = np.array([[0.5, 0.6, 0.6, 0.6], [0.5, 0.5, 0.5, 0.75], [0.2, 0.2, 0.5, 0.9]], "float32")
    x, y = several_inputs.parted(flat), np.array([1, 1, 0])
    # The sums are 2.3, 2.25 and 1.8; the attacker moves them by 0.1 + 3 * 0.06 = 0.28.
    parts = {"a": kr.Linf(0.1), "b": kr.Linf(0.06)}
    report = kr.evaluate(network, (x, y), parts)
    assert report.suite == "APGD"
    assert [attack.name for attack in report.attacks] == ["APGD", "TargetedAPGD"]
    np.testing.assert_array_equal(report.attacks[0].robust, [1, 0, 0])
    assert report.robust_accuracy == pytest.approx(1 / 3)
    assert report.curve is report.distances is None
    np.testing.assert_array_equal(report.x_adv["number"], [0, 1, 2])
    np.testing.assert_allclose(report.x_adv["a"][:2], x["a"][:2] - 0.1, atol=1e-4)
    np.testing.assert_allclose(report.x_adv["b"][:2], x["b"][:2] - 0.06, atol=1e-4)
    assert report.threat_model["class_name"] == "PerInput"


@pytest.mark.exhaustive
def test_l0_robust_accuracy():
    x = np.array([[0.9, 0.9, 0.9], [0.6, 0.6, 0.5], [0.6, 0.9, 0.9]], "float32")

    def network(x):
        return keras.ops.stack([0.0 * x[:, 0], keras.ops.sum(x, axis=-1) - 1.0], axis=-1)

    # Without its largest feature an example has the sum 1.8, 1.1 and 1.5; without two, at most 0.9.
    attack, y = kr.attacks.PGD(num_steps=5), np.ones(3, "int64")
    search = kr.attacks.FMN(num_steps=20)
    for epsilon, robust in ((1, 1.0), (2, 0.0)):
        ball = kr.threat_models.L0(epsilon)
        report = kr.evaluate(network, (x, y), ball, attack, minimum_norm=search)
        assert report.robust_accuracy == robust
        np.testing.assert_array_equal(report.distances, [2.0, 2.0, 2.0])
        assert report.curve["epsilons"][-1] == 2.0


def test_a_loaded_saved_model_is_evaluated_as_a_callable(tmp_path):
    network = linear_model.keras_model()
    network.export(str(tmp_path / "model"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    data, attack = linear_model.examples(20), kr.attacks.PGD(num_steps=3)
    expected = kr.evaluate(network, data, kr.Linf(0.06), attack, minimum_norm=None)
    assert 0.0 < expected.robust_accuracy < 1.0
    for served in (loaded.serve, loaded.signatures["serving_default"]):
        report = kr.evaluate(served, data, kr.Linf(0.06), attack, minimum_norm=None)
        np.testing.assert_array_equal(report.attacks[0].robust, expected.attacks[0].robust)
        np.testing.assert_allclose(report.x_adv, expected.x_adv, atol=1e-6)


def test_large_inputs_may_be_rounded():
    x = np.random.default_rng(0).uniform(1000.0, 1100.0, size=(50, 4)).astype("float32")
    ball, attack = kr.Linf(5, bounds=None), kr.attacks.PGD(num_steps=5)
    report = kr.evaluate(lambda x: x, (x, x.argmax(-1)), ball, attack, minimum_norm=None)
    assert report.warnings == []
    assert (report.clean_accuracy, report.num_examples) == (1.0, 50)


class Interrupted(kr.attacks.FGSM):
    def search(self, problem):
        raise KeyboardInterrupt


def test_a_checkpoint_of_other_long_bounds_is_not_resumed(tmp_path):
    x, y = np.full((2, 9), 0.5, "float32"), np.zeros(2, "int64")
    high = np.linspace(0.6, 1.0, 9)

    def run(high):
        ball = kr.Linf(0.1, bounds=(0.0, high))
        arguments = {"minimum_norm": None, "checkpoint": tmp_path / "state.npz"}
        kr.evaluate(lambda x: x[:, :2], (x, y), ball, ["fgsm", Interrupted()], **arguments)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(high)
    # The same shape and range.
    with refusals.assert_refused("belongs to another evaluation.*different threat_model$"):
        run(high[::-1])
