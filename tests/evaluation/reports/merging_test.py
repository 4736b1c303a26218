import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_model
from tests.support import refusals
from tests.support import tiers
from tests.support.told import BALL
from tests.support.told import Fixed
from tests.support.told import FixedNearest
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model

ARRAYS = ("y", "logits", "adv_logits", "distances", "robust", "proved")


def _plain(report):
    """The JSON without the seconds."""
    fields = report.to_dict()
    for part in (fields, *fields["attacks"], *fields.get("certificates", [])):
        assert part.pop("seconds") > 0.0
    return fields


def _shards(count, attacks, network=model, data=(X, Y), ball=BALL, **arguments):
    """The reports of all shards, each read back from JSON in the second list."""
    arguments = {"batch_size": 16, "minimum_norm": None, **arguments}
    found = [
        kr.evaluate(network, data, ball, attacks, shard=f"{index}/{count}", **arguments)
        for index in range(count)
    ]
    texts = [json.dumps(report.to_dict(), allow_nan=False) for report in found]
    return found, [kr.RobustnessReport.from_dict(json.loads(text)) for text in texts]


@pytest.mark.usefixtures("search_alone")
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_told_shards_have_the_report_of_one_machine(count):
    # The first attack leaves the threat model once; the search breaks one more in the ball.
    attack = Fixed([0.0, -0.31, 0.0, 0.0, 0.0], has_zero_gradient=[True, False, True, False, False])
    plan = {"attacks": [attack, Fixed([0.0, 0.0, -0.3, 0.0, 0.0], name="other")]}
    plan["minimum_norm"] = FixedNearest([-0.5, -0.25, -0.26, 0.0, 0.0])
    whole = kr.evaluate(model, (X, Y), BALL, batch_size=16, **plan)
    found, loaded = _shards(count, **plan)
    for reports in (found, loaded, found[::-1]):
        merged = kr.RobustnessReport.merge(reports)
        assert _plain(merged) == _plain(whole)
        assert merged.shard is None
        assert merged.seconds == pytest.approx(sum(report.seconds for report in reports))
    merged = kr.RobustnessReport.merge(found)
    for name in ("x", "x_adv", *ARRAYS):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    for one, other in zip(merged.attacks, whole.attacks, strict=True):
        np.testing.assert_array_equal(one.robust, other.robust)
    assert kr.RobustnessReport.merge(loaded).x is None
    assert whole.warnings[0].startswith("Fixed left the threat model on 1 examples")
    assert whole.attacks[0].zero_gradient == 0.5
    assert whole.curve["robust_accuracy"] == [0.8, 0.6, 0.4, 0.4, 0.2]


@tiers.parametrize("norm", ["Linf", "L2", "L1"])
def test_searches_have_the_random_numbers_of_one_machine(norm):
    x, y = linear_model.examples(40)
    y = np.where(np.arange(40) % 9 == 0, 1 - y, y)
    ball = getattr(kr, norm)(linear_model.EPSILON[norm] / 3)
    suite = [kr.attacks.PGD(num_steps=2, num_restarts=2), kr.attacks.Square(num_queries=8)]
    arguments = {"network": linear_model.keras_model(), "data": (x, y), "ball": ball}
    arguments |= {"certificates": "linear", "minimum_norm": kr.attacks.FMN(num_steps=3)}
    one = kr.RobustnessReport.merge(_shards(1, suite, **arguments)[0])
    found, loaded = _shards(3, suite, **arguments)
    merged = kr.RobustnessReport.merge(found)
    assert _plain(merged) == _plain(kr.RobustnessReport.merge(loaded)) == _plain(one)
    np.testing.assert_array_equal(merged.x_adv, one.x_adv)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(merged, name), getattr(one, name))
    # A proof is exact for this model.
    best = linear_model.best(x, y, norm, linear_model.EPSILON[norm] / 3, (0.0, 1.0))
    is_robust = (linear_model.margin(best, y) < 0.0) & (linear_model.margin(x, y) < 0.0)
    assert merged.robust_accuracy == pytest.approx(is_robust.mean(), abs=1 / 40)
    assert merged.certified_accuracy > 0.0


@pytest.mark.exhaustive
def test_a_suite_on_a_network_has_the_bits_of_one_machine():
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).uniform(size=(70, 6, 6, 1)).astype("float32")
    y = np.random.default_rng(1).integers(0, 4, size=70)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten()]
    network = keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Dense(4)])
    suite = [kr.attacks.APGD(num_steps=5), kr.attacks.Square(num_queries=20)]
    arguments = {"network": network, "data": (x, y), "ball": kr.L2(0.05)}
    arguments["minimum_norm"] = kr.attacks.TargetedFAB(num_targets=2, num_steps=3)
    one = _shards(1, suite, **arguments)[0][0]
    merged = kr.RobustnessReport.merge(_shards(4, suite, **arguments)[1])
    assert _plain(merged) == _plain(kr.RobustnessReport.merge([one]))
    whole = kr.evaluate(
        network, (x, y), kr.L2(0.05), suite, batch_size=16, minimum_norm=arguments["minimum_norm"]
    )
    assert merged.robust_accuracy == whole.robust_accuracy
    assert merged.median_distance == pytest.approx(whole.median_distance, rel=1e-4)


def test_one_radius_for_each_example():
    ball = kr.Linf(np.array([[0.1], [0.1], [0.3], [0.1], [0.1]]))
    attack = Fixed([0.0, -0.25, -0.28, 0.0, 0.0])
    whole = kr.evaluate(model, (X, Y), ball, attack, batch_size=16)
    merged = kr.RobustnessReport.merge(_shards(2, attack, ball=ball)[1])
    assert _plain(merged) == _plain(whole)
    assert merged.robust_accuracy == pytest.approx(3 / 5)


def test_several_inputs_are_joined():
    weights = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    x = {"a": X[:, :1], "b": X}

    def network(inputs):
        return keras.ops.matmul(keras.ops.concatenate([inputs["a"], inputs["b"]], -1), weights)

    ball = kr.threat_models.PerInput({"a": kr.Linf(0.1), "b": kr.L2(0.1)})
    arguments = {"network": network, "data": (x, Y), "ball": ball}
    attack = kr.attacks.PGD(num_steps=2)
    (one,), _ = _shards(1, attack, **arguments)
    merged = kr.RobustnessReport.merge(_shards(3, attack, **arguments)[0])
    assert _plain(merged) == _plain(kr.RobustnessReport.merge([one]))
    keras.tree.map_structure(np.testing.assert_array_equal, merged.x_adv, one.x_adv)
    assert np.abs(merged.x_adv["b"] - X).max() > 0.01


def test_what_is_no_whole_evaluation_is_refused():
    reports, _ = _shards(3, "fgsm")
    for given, message in (
        ([], "Expected reports of shards, .* Received: 0 reports, of which 0"),
        ([kr.evaluate(model, (X, Y), BALL, "fgsm")], "Received: 1 reports, of which 1 are not"),
        (
            reports[:2],
            "each of 3 shards once. Received: 2 reports; missing: 2/3; more than",
        ),
        ([*reports, reports[1]], "Received: 4 reports; missing: none; more than once: 1/3"),
    ):
        with refusals.assert_refused(message):
            kr.RobustnessReport.merge(given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"attacks": "pgd"}, "attacks"),
        ({"data": (X, 1 - Y)}, "data"),
        ({"ball": kr.Linf(0.2)}, "sizes, threat_model|threat_model, sizes"),
        ({"network": lambda x: -model(x)}, "model"),
        ({"certificates": "linear"}, "certificates"),
    ],
)
def test_a_shard_of_another_evaluation_is_refused(changes, words):
    (first, _), _ = _shards(2, "fgsm")
    other = _shards(2, **{"attacks": "fgsm", **changes})[0][1]
    message = f"same model, data and settings. Received: shard 1/2, .* shard 0/2 in: ({words})$"
    with refusals.assert_refused(message):
        kr.RobustnessReport.merge([first, other])


def test_a_shard_of_another_number_is_refused():
    (first, _), _ = _shards(2, "fgsm")
    other = _shards(3, "fgsm")[0][1]
    with refusals.assert_refused("shard 1/3, which differs from shard 0/2 in: number of shards"):
        kr.RobustnessReport.merge([first, other])


def test_weights_tell_models_apart_that_predict_the_same():
    x, y = linear_model.examples(6)
    networks = linear_model.keras_model(), linear_model.keras_model()
    networks[1].set_weights([2.0 * weights for weights in networks[1].get_weights()])
    first, other = (
        kr.evaluate(network, (x, y), kr.Linf(0.1), "fgsm", minimum_norm=None, shard=f"{index}/2")
        for index, network in enumerate(networks)
    )
    with refusals.assert_refused("differs from shard 0/2 in: model"):
        kr.RobustnessReport.merge([first, other])


def _network(activation):
    hidden = keras.layers.Dense(3, activation, kernel_initializer="ones")
    output = keras.layers.Dense(2, kernel_initializer=keras.initializers.Orthogonal(seed=1))
    return keras.Sequential([keras.Input((2,)), hidden, output])


def test_activations_tell_models_apart_and_names_do_not():
    x = np.random.default_rng(0).uniform(size=(6, 2)).astype("float32")
    arguments = {"attacks": "fgsm", "minimum_norm": None}

    def shard(index, activation):
        network = _network(activation)
        y = np.argmax(network(x), axis=-1)
        return kr.evaluate(network, (x, y), kr.Linf(0.1), shard=f"{index}/2", **arguments)

    first = shard(0, "relu")
    # Keras gives the layers of every network other names.
    assert kr.RobustnessReport.merge([first, shard(1, "relu")]).num_examples == 6
    with refusals.assert_refused("differs from shard 0/2 in: .*model"):
        kr.RobustnessReport.merge([first, shard(1, "tanh")])


def test_a_shared_perturbation_has_no_shards():
    ball = kr.threat_models.Universal(kr.Linf(0.1))
    with refusals.assert_refused("all of them in one process.*Received: shard='0/2' under Univ"):
        kr.evaluate(model, (X, Y), ball, "fgsm", minimum_norm=None, shard="0/2")


def test_a_random_model_keeps_its_worst_check():
    reports, _ = _shards(2, "fgsm")
    failed = kr.evaluation.Check("deterministic outputs", 0.5, 1e-4, "failed", "It is random.")
    reports[1] = dataclasses.replace(reports[1], checks=[failed, *reports[1].checks[1:]])
    assert kr.RobustnessReport.merge(reports).checks[0] == failed


def test_a_finished_shard_is_not_attacked_again(tmp_path):
    path = tmp_path / "state.npz"
    arguments = {"minimum_norm": None, "shard": "1/2", "checkpoint": path}
    first = kr.evaluate(model, (X, Y), BALL, "fgsm", **arguments)
    assert path.exists()
    again = kr.evaluate(model, (X, Y), BALL, "fgsm", **arguments)
    assert again.attacks == first.attacks and again.attacks[0].seconds == first.attacks[0].seconds
    with refusals.assert_refused("Received: different shard"):
        kr.evaluate(model, (X, Y), BALL, "fgsm", **{**arguments, "shard": "0/2"})
