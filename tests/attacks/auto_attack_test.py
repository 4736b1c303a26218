import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import backends
from tests.support import numpy_reference
from tests.support import refusals

AutoAttack = kr.attacks.AutoAttack


def summary(version, ball, num_classes):
    return [
        (type(member).__name__, member.num_restarts, getattr(member, "loss", None))
        for member in AutoAttack(version).members(ball, num_classes)
    ]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_standard_has_the_members_of_the_authors(norm):
    ball = getattr(kr.threat_models, norm)(0.1)
    assert summary("standard", ball, 10) == [
        ("APGD", 1, "cross_entropy"),
        ("TargetedAPGD", 9, "dlr"),
        ("TargetedFAB", 9, None),
        ("Square", 1, "margin"),
    ]
    members = AutoAttack().members(ball, 10)
    assert [getattr(member, "num_steps", None) for member in members] == [100, 100, 100, None]
    assert members[3].num_queries == 5000 and members[3].p_init == 0.8
    assert not any(getattr(member, "shrinking", False) for member in members)


def test_standard_in_l1_has_more_restarts_and_shrinking_balls():
    ball = kr.L1(12.0)
    assert [(name, restarts) for name, restarts, _ in summary("standard", ball, 10)] == [
        ("APGD", 5),
        ("TargetedAPGD", 5),
        ("TargetedFAB", 9),
        ("Square", 1),
    ]
    members = AutoAttack().members(ball, 10)
    assert members[0].shrinking and members[1].shrinking


def test_plus_and_rand_have_the_members_of_the_authors():
    assert summary("plus", kr.Linf(0.1), 10) == [
        ("APGD", 5, "cross_entropy"),
        ("APGD", 5, "dlr"),
        ("FAB", 5, None),
        ("Square", 1, "margin"),
        ("TargetedAPGD", 9, "dlr"),
        ("TargetedFAB", 9, None),
    ]
    assert summary("rand", kr.L2(0.1), 10) == [("APGD", 1, "cross_entropy"), ("APGD", 1, "dlr")]
    assert [member.eot_samples for member in AutoAttack("rand").members(kr.L2(0.1), 10)] == [20, 20]


@pytest.mark.parametrize(
    ("num_classes", "targets", "loss", "dlr"),
    [
        (2, 1, "margin", "margin"),
        (3, 2, "margin", "dlr"),
        (4, 3, "dlr", "dlr"),
        (100, 9, "dlr", "dlr"),
    ],
)
def test_few_classes(num_classes, targets, loss, dlr):
    standard = summary("standard", kr.Linf(0.1), num_classes)
    assert standard[1] == ("TargetedAPGD", targets, loss)
    assert standard[2] == ("TargetedFAB", targets, None)
    assert summary("plus", kr.Linf(0.1), num_classes)[1] == ("APGD", 5, dlr)


class Members(AutoAttack):
    """AutoAttack with small members."""

    def members(self, threat_model, num_classes):
        return [
            kr.attacks.RandomNoise(num_samples=5),
            kr.attacks.TargetedAPGD(num_targets=2, num_steps=3, loss="margin"),
            kr.attacks.Square(num_queries=20),
        ]


SUITE = Members()


def test_members_attack_what_earlier_members_left_robust():
    model = numpy_reference.keras_model()
    x, y = numpy_reference.examples(12)
    y[:2] = (y[:2] + 1) % 3
    ball = kr.Linf(0.25)
    found = SUITE.run(model, x, y, ball, seed=4)
    left = np.arange(2, 12)
    expected, queries = np.zeros(12, "bool"), np.ones(12, "int32")
    expected[:2] = True
    for index, member in enumerate(SUITE.members(ball, 3)):
        rows = left[~expected[left]]
        one = member.run(model, x, y, ball, rows=rows, seed=4 + 104729 * index)
        expected[rows] = one.success
        # One more query judges the result.
        queries[rows] += one.queries + 1
        np.testing.assert_array_equal(found.x_adv[rows[one.success]], one.x_adv[one.success])
    np.testing.assert_array_equal(found.success, expected)
    np.testing.assert_array_equal(found.queries, queries)
    np.testing.assert_array_equal(found.x_adv[:2], x[:2])
    # The first member breaks some examples, a later member others, and some stay robust.
    first = SUITE.members(ball, 3)[0].run(model, x, y, ball, rows=left, seed=4).success
    assert 0 < first.sum() < expected[2:].sum() < 10
    np.testing.assert_array_equal(found.x_adv[~expected], x[~expected])
    predicted = np.argmax(numpy_reference.logits(found.x_adv.astype("float64")), axis=-1)
    np.testing.assert_array_equal(predicted != y, expected)


@pytest.mark.exhaustive
def test_batches_rows_and_missing_labels_change_nothing():
    model = numpy_reference.keras_model()
    x, y = numpy_reference.examples(7)
    ball = kr.L2(0.2)
    found = SUITE.run(model, x, y, ball)
    for other in (
        SUITE.run(model, x, y, ball, batch_size=3),
        SUITE.run(model, x, None, ball),
        SUITE.run(model, x, np.eye(3)[y], ball),
    ):
        np.testing.assert_array_equal(other.success, found.success)
        np.testing.assert_allclose(other.x_adv, found.x_adv, atol=1e-5)
    rows = np.array([5, 1, 4])
    some = SUITE.run(model, x, y, ball, rows=rows)
    np.testing.assert_allclose(some.x_adv, found.x_adv[rows], atol=1e-5)
    np.testing.assert_allclose(SUITE(model, x, y, ball), found.x_adv, atol=1e-5)


@pytest.mark.exhaustive
def test_binary_models_with_a_single_logit():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    model.set_weights([np.array([[1.0], [2.0], [-1.0]], "float32"), np.array([-0.5], "float32")])
    x = np.random.default_rng(0).uniform(size=(10, 3)).astype("float32")
    z = x @ np.array([1.0, 2.0, -1.0]) - 0.5
    found = SUITE.run(model, x, (z > 0).astype("int32"), kr.Linf(0.15, bounds=None))
    # The largest change of z in the ball is 0.15 times the sum of the absolute weights.
    np.testing.assert_array_equal(found.success, np.abs(z) < 0.6)


def test_unsupported_uses_are_explained():
    x, y = numpy_reference.examples(3)
    model = numpy_reference.keras_model()
    with refusals.assert_refused(r"defined for L1, L2 and Linf.*Received: L0\(epsilon=1,"):
        AutoAttack().run(model, x, y, kr.threat_models.L0(1))
    with pytest.raises(ValueError, match="cannot run inside a train step.*Received: AutoAttack"):
        backends.traced(lambda x: AutoAttack()(model, x, None, kr.Linf(0.1)))(x)
    with pytest.raises(ValueError, match="`version` must be one of.*Received: 'fast'"):
        AutoAttack("fast")


def _nan_beyond(x):
    """Logits that are NaN where the first coordinate is above 0.6, and there only."""
    logits = keras.ops.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=-1)
    return keras.ops.where(x[:, :1] > 0.6, np.float32("nan"), logits)


def test_it_agrees_with_evaluate_about_logits_that_are_not_finite():
    x = np.array([[0.3, 0.5], [0.45, 0.5], [0.55, 0.5]], "float32")
    y, ball = np.array([0, 0, 1]), kr.Linf(0.2)
    found = AutoAttack().run(_nan_beyond, x, y, ball)
    # Only a finite score above 0.5, or below it for the last example, is a mistake.
    np.testing.assert_array_equal(found.success, [0, 1, 1])
    assert np.all(found.x_adv[:2, 0] <= 0.6) and found.x_adv[0, 0] == x[0, 0]
    report = kr.evaluate(_nan_beyond, (x, y), ball, minimum_norm=None)
    assert report.robust_accuracy == pytest.approx((~found.success).mean())


def test_a_model_without_finite_logits_is_refused():
    x = np.array([[0.3, 0.5], [0.7, 0.5]], "float32")
    with pytest.raises(ValueError, match="NaN or infinite values on clean.*Received: 1 such"):
        AutoAttack().run(_nan_beyond, x, np.array([0, 1]), kr.Linf(0.2))
    with pytest.raises(ValueError, match=r"at least one example to attack. Received: rows=\[\]"):
        AutoAttack().run(_nan_beyond, x[:1], np.array([0]), kr.Linf(0.2), rows=[])
