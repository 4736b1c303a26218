import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.certificate import Certificate
from keras_robust.certificate import CertificationResult
from tests.support import linear_model
from tests.support import refusals
from tests.support import several_inputs
from tests.support import tiers
from tests.support.told import BALL
from tests.support.told import Fixed
from tests.support.told import FixedNearest
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

EPSILON = {"Linf": 0.06, "L2": 0.2, "L1": 0.5}
NOTHING = Fixed([0.0] * 5)
MOVED = X - np.array([[0.3, 0.0]], "float32")


class Claims(Certificate):
    """Claims radii and counterexamples for the examples of `told`, and keeps what it was asked."""

    norm = "Linf"

    def __init__(self, radii, points=None, bounds=None, predictions=Y):
        self.radii, self.points, self.bounds = np.array(radii, "float64"), points, bounds
        self.predictions, self.asked = np.array(predictions), []

    def get_config(self):
        return {"radii": self.radii.tolist()}

    def __repr__(self):
        return f"Claims({self.radii.tolist()})"

    def certify(self, model, x, *, batch_size=256, seed=0, verbose=False):
        rows = [int(np.flatnonzero((X == one).all(axis=-1))[0]) for one in x]
        self.asked.append(rows)
        found = self.predictions[rows], self.radii[rows]
        if self.points is None:
            return CertificationResult(*found)
        points = self.points[rows]
        sizes = np.abs(points - x).max(axis=-1).astype("float64")
        return CertificationResult(*found, np.where(sizes > 0.0, sizes, np.inf), points)


def _evaluate(attacks, certificates, **arguments):
    arguments = {"minimum_norm": None, "certificates": certificates, **arguments}
    return kr.evaluate(model, (X, Y), arguments.pop("ball", BALL), attacks, **arguments)


@tiers.parametrize("norm", ["Linf", "L2", "L1"])
@tiers.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", ["linear", "crown"])
def test_what_is_robust_in_closed_form_is_proved(name, norm, bounds):
    x, y = linear_model.examples(40)
    y = y.copy()
    y[:4] = 1 - y[:4]
    worst = linear_model.best(x, y, norm, EPSILON[norm], bounds)
    worst = linear_model.margin(worst, y)
    assert np.min(np.abs(worst)) > 1e-4
    ball = getattr(kr, norm)(EPSILON[norm], bounds)
    # With a random start PGD would end a little short of the optimum.
    attack = kr.attacks.PGD(num_steps=10, random_start=False)
    arguments = {"attacks": attack, "certificates": name, "minimum_norm": None}
    report = kr.evaluate(linear_model.keras_model(), (x, y), ball, **arguments)
    # CROWN is exact as well where there is no activation.
    np.testing.assert_array_equal(report.proved, worst < 0.0)
    assert report.certified_accuracy == report.robust_accuracy == np.mean(worst < 0.0)
    left = 36 - np.sum(worst < 0.0)
    assert [attack.num_attacked for attack in report.attacks] == [left]
    assert 0 < left < 30
    proof = report.certificates[0]
    assert (proof.num_examples, proof.num_proved) == (36, 36 - left)
    assert 0.0 < proof.seconds < report.seconds


def _relu_network():
    """A network of one input, whose margin bends only where the input of a ReLU is 0."""
    dense = keras.layers.Dense
    network = keras.Sequential([keras.Input((1,)), dense(4, "relu"), dense(2)])
    kinks = np.array([0.2, 0.35, 0.6, 0.9])
    slopes = np.array([1.0, -1.0, 1.0, -1.0])
    weights = [slopes[None], -slopes * kinks, np.array([[1.5, 0], [0, 1], [0, 4], [1, 0]])]
    network.set_weights([*weights, np.array([0.05, 0.2])])
    return network, kinks


def _enumerated(network, kinks, x, y, epsilon):
    """Returns whether all inputs of each ball are right: at its ends and at the kinks inside."""
    robust = []
    for one, label in zip(x[:, 0], y, strict=True):
        low, high = max(one - epsilon, 0.0), min(one + epsilon, 1.0)
        points = np.array([low, high, *kinks[(low < kinks) & (kinks < high)]])
        logits = np.asarray(network(points[:, None].astype("float32")))
        margins = logits[:, 1 - label] - logits[:, label]
        assert np.min(np.abs(margins)) > 1e-4
        robust.append(bool(np.all(margins < 0.0)))
    return np.array(robust)


@pytest.mark.parametrize("certificates", ["complete", "interval", ["interval", "crown"]])
def test_a_relu_network_is_decided_as_by_enumeration(certificates):
    network, kinks = _relu_network()
    x = np.random.default_rng(0).uniform(size=(40, 1)).astype("float32")
    y = np.array(np.argmax(network(x), axis=-1))
    y[:3] = 1 - y[:3]
    expected = _enumerated(network, kinks, x, y, 0.04)
    attacks = {"attacks": kr.attacks.PGD(num_steps=20, loss="margin"), "minimum_norm": "fmn"}
    ball = kr.Linf(0.04)
    without = kr.evaluate(network, (x, y), ball, **attacks)
    report = kr.evaluate(network, (x, y), ball, **attacks, certificates=certificates)
    np.testing.assert_array_equal(report.robust, expected)
    np.testing.assert_array_equal(without.robust, expected)
    np.testing.assert_array_equal(report.distances, without.distances)
    assert report.curve == without.curve and report.confidence == without.confidence
    assert report.attacks[0].accuracy == without.attacks[0].accuracy == np.mean(expected)
    assert not np.any(report.proved & ~expected) and 0 < report.proved.sum()
    assert report.attacks[0].num_attacked == 37 - report.proved.sum()
    # The search for the nearest mistakes runs on proved examples as well.
    assert report.attacks[1].num_attacked == without.attacks[1].num_attacked == 37
    if certificates == "complete":
        outcomes = np.where(expected, "proved", "broken")
        np.testing.assert_array_equal(report.outcomes, outcomes)
        proof = report.certificates[0]
        assert (proof.num_proved, proof.num_broken) == (expected.sum(), 37 - expected.sum())


def test_attacks_get_only_what_is_neither_proved_nor_broken():
    # The distances of the mistakes are 0.4, 0.2, 0.25 and 0.4; the last example is one.
    attack = Fixed([0.3, -0.3, 0.0, 0.0, 0.0], queries=[1, 2, 4, 8, 16])
    report = _evaluate(attack, "linear")
    assert report.outcomes == ["proved", "broken", "inconclusive", "proved", "broken"]
    assert (report.attacks[0].num_attacked, report.queries) == (2, 6)
    assert (report.attacks[0].accuracy, report.robust_accuracy) == (0.6, 0.6)
    assert report.certified_accuracy == 0.4
    both = _evaluate(attack, None)
    assert (both.queries, both.robust_accuracy, both.certified_accuracy) == (15, 0.6, None)
    assert both.outcomes == ["inconclusive", "broken", *["inconclusive"] * 2, "broken"]


def test_each_certificate_gets_what_is_left_undecided():
    first, second = Claims([0.4, 0.0, 0.0, 0.0, 0.0]), Claims([0.0, 0.1, 0.31, 0.0, 0.0])
    broken = Claims([0.0] * 5, points=np.where([[0], [1], [0], [0], [1]], MOVED, X))
    report = _evaluate(NOTHING, [first, broken, second])
    assert [one.asked for one in (first, broken, second)] == [[[0, 1, 2, 3]], [[1, 2, 3]], [[2, 3]]]
    assert report.outcomes == ["proved", "broken", "proved", "inconclusive", "broken"]
    numbers = [(one.num_examples, one.num_proved, one.num_broken) for one in report.certificates]
    assert numbers == [(4, 1, 0), (3, 0, 1), (2, 1, 0)]
    np.testing.assert_allclose(report.x_adv[1], MOVED[1])


@pytest.mark.parametrize("radius,is_proved", [(0.3, False), (0.30001, True), (np.inf, True)])
def test_a_radius_must_hold_all_points_that_count_as_feasible(radius, is_proved):
    report = _evaluate(NOTHING, Claims([radius] * 5))
    assert report.certified_accuracy == (0.8 if is_proved else 0.0)
    # The proof of another prediction says nothing about the label.
    report = _evaluate(NOTHING, Claims([radius] * 5, predictions=1 - Y))
    assert report.certified_accuracy == 0.0


@pytest.mark.parametrize("share,is_broken", [(1.0, True), (1.0 + 1.9e-5, True), (0.5, False)])
def test_counterexamples_are_judged_by_the_model_in_the_ball(share, is_broken):
    # The second example is 0.2 away from its mistakes; the ball has a radius of 0.2001.
    points = X - np.array([[0.2001 * share, 0.0]], "float32")
    claims = Claims([0.0] * 5, points=np.where([[0], [1], [0], [0], [0]], points, X))
    report = _evaluate(NOTHING, claims, ball=kr.Linf(0.2001))
    assert report.outcomes[1] == ("broken" if is_broken else "inconclusive")
    assert report.robust_accuracy == (0.6 if is_broken else 0.8)


@pytest.mark.usefixtures("search_alone")
def test_a_search_that_breaks_a_proved_example_fails_a_check():
    search = FixedNearest([-0.5, -0.25, 0.0, 0.0, 0.0])
    report = _evaluate(NOTHING, Claims([1.0] * 5), minimum_norm=search)
    # The first mistake is outside of the ball.
    assert report.outcomes == ["proved", "broken", "proved", "proved", "broken"]
    assert (report.robust_accuracy, report.certified_accuracy) == (0.6, 0.6)
    check = {check.name: check for check in report.checks}["proofs"]
    assert (check.verdict, check.value) == ("failed", 0.2)
    assert "broke 1 examples" in check.advice and "Check proofs: failed" in str(report)
    assert kr.RobustnessReport.from_dict(report.to_dict()) == report
    honest = _evaluate(NOTHING, Claims([1.0, 0.0, 1.0, 1.0, 0.0]), minimum_norm=search)
    assert {check.name: check.verdict for check in honest.checks}["proofs"] == "passed"


@pytest.mark.parametrize("name", ["interval", "linear", "lipschitz", "crown"])
def test_nothing_is_proved_within_the_rounding_of_the_logits(name):
    """The margin of class 1 is `2e-4 x`, and float32 numbers around 1000 are 6e-5 apart."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    network.set_weights([np.array([[0.0, 2e-4]]), np.full(2, 1000.0)])
    ball = kr.L2(0.8) if name == "lipschitz" else kr.Linf(0.8)
    data = np.array([[0.9]], "float32"), np.array([1])
    assert kr.evaluate(network, data, ball, "fgsm").outcomes == ["broken"]
    report = kr.evaluate(network, data, ball, "fgsm", certificates=name)
    assert report.outcomes == ["broken"]


def test_where_everything_is_proved_nothing_is_attacked():
    report = _evaluate(["fgsm", "pgd"], Claims([1.0] * 5), num_examples=4)
    assert [attack.num_attacked for attack in report.attacks] == [0, 0]
    assert [attack.accuracy for attack in report.attacks] == [1.0, 1.0]
    assert report.outcomes == ["proved"] * 4 and report.queries == 0
    assert {check.verdict for check in report.checks} == {"passed", "skipped"}


class Interrupted(Fixed):
    """Raises an error instead of the attack as long as it is told to."""

    is_stopped = True

    def search(self, problem):
        if Interrupted.is_stopped:
            raise KeyboardInterrupt
        return super().search(problem)


def test_proofs_survive_an_interruption(tmp_path):
    path = tmp_path / "state.npz"
    first = Claims([1.0, 0.0, 0.0, 0.0, 0.0])
    second = Claims([0.0, 0.0, 0.0, 1.0, 0.0], points=np.where([[0], [1], [0], [0], [0]], MOVED, X))
    attack = Interrupted([0.0, 0.0, -0.3, 0.0, 0.0], queries=[1, 2, 4, 8, 16])
    with pytest.raises(KeyboardInterrupt):
        _evaluate(attack, [first, second], checkpoint=path)
    Interrupted.is_stopped = False
    with refusals.assert_refused("belongs to another evaluation.*different certificates"):
        _evaluate(attack, [second], checkpoint=path)
    report = _evaluate(attack, [first, second], checkpoint=path)
    assert (len(first.asked), len(second.asked)) == (1, 1) and not path.exists()
    assert report.outcomes == ["proved", "broken", "broken", "proved", "broken"]
    assert report.queries == 6 and [one.num_proved for one in report.certificates] == [1, 1]
    again = _evaluate(attack, [first, second])
    np.testing.assert_array_equal(again.x_adv, report.x_adv)
    assert again.robust_accuracy == report.robust_accuracy == 0.4


NEVER = Interrupted([0.0] * 5)


def test_proofs_of_other_weights_are_not_resumed(tmp_path, monkeypatch):
    """All examples have 0.5 in the second feature, whose slope and the bias cancel there."""
    x, y = np.array([[0.2, 0.5], [0.9, 0.5]], "float32"), np.array([1, 0])
    networks = [keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]) for _ in range(2)]
    for network, slope in zip(networks, (1.0, 3.0), strict=True):
        network.set_weights(
            [np.array([[1.0, 0.0], [0.0, slope]]), np.array([0.0, (1 - slope) / 2])]
        )
    np.testing.assert_array_equal(networks[0](x), networks[1](x))
    monkeypatch.setattr(Interrupted, "is_stopped", True)
    path = tmp_path / "state.npz"
    arguments = {"minimum_norm": None, "certificates": "crown", "checkpoint": path}
    with pytest.raises(KeyboardInterrupt):
        kr.evaluate(networks[0], (x, y), kr.Linf(0.2), NEVER, **arguments)
    with refusals.assert_refused("belongs to another evaluation.*Received: different weights$"):
        kr.evaluate(networks[1], (x, y), kr.Linf(0.2), NEVER, **arguments)


def test_long_arguments_of_certificates_are_compared_in_full(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    monkeypatch.setattr(Interrupted, "is_stopped", True)
    radii = [1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(KeyboardInterrupt):
        _evaluate(NEVER, Claims(radii, points=X), checkpoint=path)
    # The same shape and range.
    points = np.concatenate([X[1:], X[:1]])
    with refusals.assert_refused("another evaluation.*Received: different certificates$"):
        _evaluate(NEVER, Claims(radii, points=points), checkpoint=path)


METHODS = kr.certification


@pytest.mark.parametrize(
    "certificates,ball,message",
    [
        ("crwon", BALL, "Unknown certificate.*Received: 'crwon'. Did you mean 'crown'"),
        (3, BALL, "Unknown certificate.*Received: 3"),
        ("smoothing", BALL, "about the vote over noisy copies.*kr.certify.*Received: Smoothing"),
        (METHODS.Smoothing(0.25), kr.L2(0.2), "about the vote.*Received: Smoothing.*=0.25"),
        ("lipschitz", BALL, "certificates in Linf, the norm of the threat.*: Lipschitz.. in L2"),
        ("interval", kr.L2(0.2), "certificates in L2, the norm.*or a threat model Linf. Received"),
        (METHODS.Crown("L1"), kr.L2(0.2), "certificates in L2.*Received: Crown.norm='L1'"),
        ("crown", kr.L0(2), "Linf, L2 or L1 with one radius.*Received: L0.epsilon=2"),
        ("crown", kr.Linf(np.full(2, 0.25)), "one radius for all.*Received: Linf.*0.25, 0.25"),
        (Claims([1.0] * 5, bounds=(0.0, 0.75)), BALL, "bounds=.0.0, 1.0.. Received: Claims"),
        (Claims([1.0] * 5, bounds=(0.0, 1.0)), kr.Linf(0.1, None), "bounds=None. Received: Claims"),
    ],
)
def test_certificates_that_say_nothing_are_refused(certificates, ball, message):
    with refusals.assert_refused(message):
        _evaluate(NOTHING, certificates, ball=ball)


def test_a_box_may_be_larger_than_that_of_the_threat_model():
    for bounds in (None, (0.0, 1.0), (-1.0, 1.0), ([0.0, 0.0], [1.0, 2.0])):
        bounds = bounds and tuple(np.asarray(end) for end in bounds)
        assert _evaluate(NOTHING, Claims([1.0] * 5, bounds=bounds)).certified_accuracy == 0.8


def test_models_of_which_there_is_no_proof_are_refused():
    box = kr.evaluation.BlackBox(lambda x: np.asarray(model(x)), 2)
    with refusals.assert_refused("a black box has none: leave `certificates` out.*: a BlackBox"):
        kr.evaluate(box, (X, Y), BALL, "black_box", certificates="crown")
    with refusals.assert_refused("a built Sequential or Functional model.*Received: a function"):
        kr.evaluate(model, (X, Y), BALL, "fgsm", certificates="crown")
    flat = np.full((2, 4), 0.5, "float32")
    parts = {"a": kr.Linf(0.1), "b": kr.Linf(0.06)}
    with refusals.assert_refused("a model with one input.*Received: inputs .'a', 'number', 'b'"):
        kr.evaluate(
            lambda x: keras.ops.stack([keras.ops.sum(x["a"], axis=-1)] * 2, axis=-1),
            (several_inputs.parted(flat), np.zeros(2, "int64")),
            parts,
            "fgsm",
            certificates="crown",
        )


def test_verbose_names_the_certificates(capsys):
    _evaluate(NOTHING, Claims([1.0, 0.0, 0.0, 0.0, 0.0]), verbose=True)
    printed = capsys.readouterr().out
    # One of the four examples that the model gets right is proved.
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    assert lines == ["[1/2] Claims, 4 examples", "[2/2] Fixed, 3 examples"]
