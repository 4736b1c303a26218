import keras
import numpy as np
import pytest
from keras import layers

import keras_robust as kr
from tests.support import refusals
from tests.support.bounded import sequential

Complete = kr.certification.Complete
RNG = np.random.default_rng(0)
RADIUS = 0.3
X = RNG.uniform(size=(12, 4)).astype("float32")


def network(activation="relu"):
    hidden = [layers.Dense(6, activation=activation) for _ in range(2)]
    return sequential(*hidden, layers.Dense(3), shape=(4,))


def predictions(model, x):
    return np.argmax(model(x), axis=-1)


@pytest.fixture(scope="module")
def decided():
    """A model, and what was found for it."""
    keras.utils.set_random_seed(0)
    model = network()
    return model, Complete(RADIUS).certify(model, X)


def test_every_example_is_proved_or_has_a_counterexample(decided):
    (model, found), radius = decided, RADIUS
    proved, broken = found.radii == radius, found.broken_radii <= radius
    assert np.all(proved ^ broken) and proved.sum() >= 3 and broken.sum() >= 3
    assert np.all(found.radii[broken] == 0.0) and np.all(np.isinf(found.broken_radii[proved]))
    np.testing.assert_array_equal(found.predictions, predictions(model, X))
    points = found.counterexamples
    np.testing.assert_array_equal(points[proved], X[proved])
    assert np.all(predictions(model, points[broken]) != found.predictions[broken])
    ball = kr.Linf(radius)
    assert np.all(np.asarray(ball.contains(points, X)))
    sizes = np.max(np.abs(points - X), axis=-1)
    np.testing.assert_allclose(found.broken_radii[broken], sizes[broken], rtol=1e-6)


def test_no_attack_breaks_a_proof_and_weaker_proofs_hold(decided):
    (model, found), radius = decided, RADIUS
    proved = found.radii == radius
    attack = kr.attacks.PGD(num_steps=100, num_restarts=10, loss="margin")
    x_adv = attack(model, X, found.predictions, kr.Linf(radius))
    assert np.all(predictions(model, x_adv)[proved] == found.predictions[proved])
    crown = kr.certification.Crown(max_radius=radius, num_steps=0).certify(model, X)
    assert np.all(proved[crown.radii == radius])
    assert proved.sum() >= np.sum(crown.radii == radius)


def test_what_takes_too_long_is_inconclusive():
    model = sequential(
        layers.Dense(60, activation="relu"),
        layers.Dense(3),
        shape=(4,),
    )
    report = kr.certify(model, (X, predictions(model, X)), Complete(0.03, time_limit=1e-6))
    outcomes = report.outcomes(0.03)
    assert outcomes.count("inconclusive") >= 1
    assert outcomes.count("proved") / len(X) == report.certified_accuracy(0.03)
    assert report.outcomes(0.0) == ["proved"] * len(X)


def test_the_report_states_outcomes_and_is_read_again(tmp_path):
    model = sequential(layers.Dense(3, activation="relu"), layers.Dense(3), shape=(4,))
    report = kr.certify(model, (X, predictions(model, X)), "complete", radius=RADIUS)
    report.save(tmp_path / "certificate.json")
    again = kr.CertificateReport.load(tmp_path / "certificate.json")
    assert again == report and again.outcomes(RADIUS).count("inconclusive") == 0
    assert report.certified_accuracy(RADIUS) == report.outcomes(RADIUS).count("proved") / len(X)
    assert "broken" in str(report) and "inconclusive" in str(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, "`radius` must be a number above 0.*Received: radius=0.0"),
        ({"radius": True}, "`radius` must be a number above 0.*Received: radius=True"),
        ({"radius": 5.0}, "Expected a `radius` below the width of the box.*: radius=5.0, bounds="),
        ({"radius": 1, "bounds": (0.0, [1.0, 9.0])}, "below the width.*: radius=1, bounds="),
        ({"radius": 0.1, "time_limit": 0}, "`time_limit` must be a number > 0. Received: 0"),
        ({"radius": 0.1, "chunk_size": 0}, "`chunk_size` must be .*Received: chunk_size=0"),
        ({"radius": 0.1, "num_domains": 1.5}, "`num_domains` must be .*Received: num_domains=1.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with refusals.assert_refused(message):
        Complete(**arguments)
    assert (Complete(0.1).time_limit, Complete(0.1).num_domains) == (60.0, 128)


def test_the_radius_is_in_the_units_of_the_box():
    assert Complete("8/255").radius == 8 / 255
    assert Complete(5.0, bounds=None).radius == Complete(5.0, bounds=(0.0, 255.0)).radius == 5.0
    # The second feature never changes.
    assert Complete(0.9, bounds=(0.0, [1.0, 0.0])).radius == 0.9


def test_other_activations_are_refused_before_any_attack():
    model = network("tanh")
    with pytest.raises(ValueError, match="splits ReLUs.*Received: 2 activations that are not"):
        Complete(0.1).certify(model, X)
    assert Complete(0.1).certify(network(), X[:1]).predictions.shape == (1,)


def test_no_inputs_have_no_radii():
    found = Complete(RADIUS).certify(network(), X[:0])
    assert len(found.predictions) == len(found.radii) == 0
