import types

import keras
import numpy as np
import pytest
from keras import ops

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.ensemble import PlannedAttack
from keras_robust.evaluation.checks.cheap_checks import cheap_checks
from keras_robust.evaluation.checks.cheap_checks import check_bounds
from keras_robust.evaluation.checks.cheap_checks import check_determinism
from keras_robust.evaluation.checks.cheap_checks import check_epsilon
from keras_robust.evaluation.checks.cheap_checks import check_logits
from keras_robust.evaluation.checks.cheap_checks import make_count_check
from keras_robust.evaluation.inputs import EvaluationInputs
from keras_robust.evaluation.reports.attack_report import AttackReport
from tests.support import backends
from tests.support import tiers
from tests.support import told
from tests.support.binomial import allowed_share
from tests.support.told import BALL
from tests.support.told import X
from tests.support.told import model

WHITE, BLACK = kr.attacks.FGSM(), kr.attacks.Square()
NAMES = [
    "deterministic outputs",
    "logits",
    "input bounds",
    "size of epsilon",
    "gradients",
    "black box",
    "unbounded attack",
]
LOGITS = np.asarray(model(X))
INPUTS = EvaluationInputs(model, X, told.Y, BALL, LOGITS)


def _worst(correct, proved=(), distances=None):
    proved = np.isin(np.arange(len(correct)), proved)
    return types.SimpleNamespace(
        correct=correct, robust=correct, proved=proved, distances=distances, numbers=None
    )


def _turns(*plan):
    """Checks for attacks with accuracy so far, share of zero gradients, and number of examples."""
    pairs = [
        (
            planned if isinstance(planned, PlannedAttack) else PlannedAttack(planned),
            AttackReport.of(
                getattr(planned, "attack", planned),
                accuracy_so_far=so_far,
                zero_gradient=has_zero_gradient,
                num_attacked=count,
            ),
        )
        for planned, so_far, has_zero_gradient, count in plan
    ]
    worst = _worst(np.array([1, 1, 1, 1, 0], "bool"))
    checks = cheap_checks(INPUTS, worst, *zip(*pairs, strict=True), 256)
    assert [check.name for check in checks] == NAMES
    return {check.name: check for check in checks}


def test_equal_outputs_are_deterministic():
    check = check_determinism(model, X, LOGITS, 2)
    assert (check.value, check.threshold, check.verdict) == (0.0, 1e-4, "passed")
    assert check.advice == ""


def test_a_random_model_is_not_deterministic():
    logits = 2.0 * LOGITS
    check = check_determinism(model, X, logits, 2)
    assert check.value == pytest.approx(0.5) and check.verdict == "failed"
    assert 'attacks="rand"' in check.advice
    first = np.asarray(told.random_model(X))
    assert check_determinism(told.random_model, X, first, 256).verdict == "failed"


@pytest.mark.parametrize("batch_size", [3, 256])
def test_outputs_must_not_depend_on_the_batch(batch_size):
    def centred(x):
        return model(x - ops.mean(x, axis=0))

    x = np.repeat(X, 3, axis=0) + np.arange(3 * len(X))[:, None].astype("float32")
    logits = models.predict_logits(centred, x, batch_size)
    check = check_determinism(centred, x, logits, batch_size)
    assert check.verdict == "failed" and "other examples in its batch" in check.advice
    alone = models.predict_logits(model, x, batch_size)
    assert check_determinism(model, x, alone, batch_size).verdict == "passed"


def test_determinism_is_checked_on_the_first_examples():
    x = np.repeat(X, 60, axis=0)
    logits = np.array(model(x))
    logits[256:] += 1.0
    assert check_determinism(model, x, logits, 256).value == 0.0
    logits[128:] += 1.0
    assert check_determinism(model, x, logits, 256).value == 0.0
    logits[127] += 1.0
    assert check_determinism(model, x, logits, 256).value > 0.1


def test_probabilities_of_a_callable_fail():
    rows = np.array([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0], [1.1, -0.1], [0.3, 0.3]])
    check = check_logits(model, rows)
    assert (check.value, check.threshold, check.verdict) == (0.6, 0.5, "failed")
    assert "every row is positive and sums to 1" in check.advice
    half = check_logits(model, rows[1:])
    assert (half.value, half.verdict, half.advice) == (0.5, "passed", "")


@pytest.mark.parametrize("digits", [8, 11, 53])
def test_probabilities_rounded_to_half_precision_fail(digits):
    logits = np.random.default_rng(0).normal(scale=3.0, size=(200, 10))
    rows = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mantissa, exponent = np.frexp(rows)
    rows = np.ldexp(np.round(mantissa * 2.0**digits), exponent - digits)
    assert check_logits(model, rows).value == 1.0
    assert check_logits(model, logits).value == 0.0


def test_a_compiled_loss_decides_what_the_outputs_are():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    rows = np.array([[0.9, 0.1]])
    assert check_logits(network, rows).verdict == "failed"
    network.compile(loss="sparse_categorical_crossentropy")
    check = check_logits(network, rows)
    assert (check.verdict, check.value) == ("passed", None)


def test_inputs_in_other_units_than_the_box():
    x = np.array([[0.0, 0.2], [1.0, 0.4]], "float32")
    check = check_bounds(x, kr.Linf(8, bounds=(0, 255)))
    assert check.value == pytest.approx(1 / 255)
    assert (check.threshold, check.verdict) == (0.1, "failed")
    assert "in the units of the inputs" in check.advice
    check = check_bounds(x, kr.Linf(0.1, bounds=(-1, 1)))
    assert (check.value, check.verdict, check.advice) == (0.5, "passed", "")
    channels = (np.array([0.0, 0.0]), np.array([1.0, 4.0]))
    assert check_bounds(x, kr.Linf(0.1, channels)).value == 0.25


@pytest.mark.parametrize("bounds", [None, (0.0, np.inf)])
def test_without_a_box_the_check_is_skipped(bounds):
    check = check_bounds(X, kr.L2(0.1, bounds=bounds))
    assert (check.verdict, check.value) == ("skipped", None)
    assert check_bounds({"a": X, "b": X}, BALL).verdict == "skipped"


IMAGES = np.random.default_rng(0).uniform(size=(9, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize(
    "ball,x,value,least,meant",
    [
        (kr.Linf(8 / 255, bounds=(0, 255)), 255 * X, 8 / 255, 0.5, "8"),
        (kr.Linf(8 / 255 / 255), X, 8 / 255 / 255, 1 / 510, "0.03137"),
        (kr.Linf(8 / 255 / 255, bounds=(0, 255)), 255 * X, 8 / 255 / 255, 0.5, "8"),
        (kr.Linf(1e-9), X, 1e-9, 1 / 510, None),
        # Half a gray level times the square root of 192 features.
        (kr.L2(0.5, bounds=(0, 255)), 255 * IMAGES, 0.5, 0.5 * 192**0.25, "127.5"),
        (kr.L1(5.0, bounds=(0, 255)), 255 * IMAGES, 5.0, 0.5 * 192**0.5, "1275"),
        # Standardized channels, the narrowest of which has a width of 1.
        (kr.Linf(1e-3, bounds=([-2, 0], [2, 1])), X, 1e-3, 1 / 510, "0.255"),
        ([kr.Linf(0.1), kr.Linf(1 / 255, bounds=(0, 255))], [X, X], 1 / 255, 0.5, "1"),
    ],
)
def test_an_epsilon_in_other_units_fails_with_the_right_epsilon(ball, x, value, least, meant):
    check = check_epsilon(x, kr.threat_models.get(ball))
    assert (check.name, check.verdict) == ("size of epsilon", "failed")
    assert (check.value, check.threshold) == (pytest.approx(value), pytest.approx(least))
    assert ("meant" in check.advice) is (meant is not None)
    assert f"Was {meant} meant?" in check.advice or meant is None


@pytest.mark.parametrize(
    "ball,x",
    [
        (kr.Linf("8/255"), X),
        (kr.Linf(0.5, bounds=(0, 255)), X),
        (kr.Linf(8, bounds=(0, 255)), X),
        (kr.L2(0.5), IMAGES),
        # Radii from the literature for large images.
        (kr.L2(0.1), np.zeros((1, 224, 224, 3), "float32")),
        (kr.L1(12.0), np.zeros((1, 224, 224, 3), "float32")),
        (kr.L2("36/255"), np.zeros((1, 64, 64, 3), "float32")),
        (kr.Linf(0.03, bounds=None), IMAGES / 0.25),
    ],
)
def test_usual_radii_are_large_enough(ball, x):
    check = check_epsilon(x, ball)
    assert (check.verdict, check.advice) == ("passed", "")


def test_without_a_box_the_inputs_decide_the_units():
    # A few outliers do not change the units.
    x = np.append(np.linspace(0.0, 255.0, 999), 1e6).astype("float32").reshape(10, 100)
    check = check_epsilon(x, kr.Linf(8 / 255, bounds=None))
    assert check.verdict == "failed" and check.threshold == pytest.approx(0.5, rel=0.05)
    assert check_epsilon(x, kr.Linf(2.0, bounds=None)).verdict == "passed"
    # Most values are 0.
    x = np.zeros((10, 300), "float32")
    x[0, 0] = 255.0
    assert check_epsilon(x, kr.Linf(0.1, bounds=None)).threshold == pytest.approx(0.5)


def test_mistakes_far_away_are_a_sign_of_other_units():
    distances = np.array([0.0, 1.0, 1.0, 1.0, np.inf])
    check = check_epsilon(X, kr.Linf(0.0099), distances)
    assert (check.verdict, check.threshold) == ("failed", 0.01)
    assert check_epsilon(X, kr.Linf(0.0101), distances).verdict == "passed"
    assert check_epsilon(X, kr.Linf(0.0099), np.full(5, np.inf)).verdict == "passed"


@pytest.mark.parametrize(
    "ball", [kr.Linf(0.0), kr.threat_models.L0(3), kr.Linf(0.1, bounds=(0, np.inf))]
)
def test_without_a_radius_in_the_units_of_the_inputs_the_check_is_skipped(ball):
    assert check_epsilon(X, ball).verdict == "skipped"


def test_zero_gradients():
    check = _turns((WHITE, 0.5, 0.0, 4))["gradients"]
    assert (check.value, check.threshold, check.verdict) == (0.0, 0.0, "passed")
    # The largest share of all gradient attacks counts; attacks without gradients do not.
    check = _turns((WHITE, 0.5, 0.2, 4), (WHITE, 0.5, 0.0, 4), (BLACK, 0.5, 1.0, 4))["gradients"]
    assert (check.value, check.verdict) == (0.2, "failed")
    assert "found only zero gradients on 20.0% of the examples" in check.advice
    for plan in ([(BLACK, 0.5, 1.0, 4)], [(WHITE, 0.0, 0.0, 0)]):
        assert _turns(*plan)["gradients"].verdict == "skipped"


def test_black_box_attacks_that_beat_gradient_attacks():
    # Clean accuracy is 80%; the attacks leave 70%, 60% and 50%.
    check = _turns((WHITE, 0.7, 0.0, 4), (BLACK, 0.6, 0.0, 4), (WHITE, 0.5, 0.0, 4))["black box"]
    assert check.value == pytest.approx(0.1)
    assert (check.threshold, check.verdict) == (0.0, "failed")
    assert "broke another 10.0% of the examples after those with gradients" in check.advice
    both = _turns((WHITE, 0.7, 0, 4), (BLACK, 0.6, 0, 4), (WHITE, 0.5, 0, 4), (BLACK, 0.3, 0, 4))
    assert both["black box"].value == pytest.approx(0.3)
    check = _turns((WHITE, 0.5, 0.0, 4), (BLACK, 0.5, 0.0, 4))["black box"]
    assert (check.value, check.verdict, check.advice) == (0.0, "passed", "")


@tiers.parametrize("size", [200, 5, 10_000])
def test_the_threshold_of_the_black_box_check_depends_on_the_number_of_examples(size):
    correct = np.ones(size, "bool")
    allowed = round(allowed_share(0.002, size) * size)
    assert (size, allowed) in ((200, 2), (5, 0), (10_000, 28))
    for broken, verdict in ((allowed, "passed"), (allowed + 1, "failed")):
        reports = [
            AttackReport.of(attack, accuracy_so_far=so_far)
            for attack, so_far in ((WHITE, 0.7), (BLACK, 0.7 - broken / size))
        ]
        worst = _worst(correct & (np.arange(size) < 0.7 * size))
        plan = [PlannedAttack(WHITE), PlannedAttack(BLACK)]
        checks = cheap_checks(INPUTS, worst, plan, reports, 256)
        check = next(check for check in checks if check.name == "black box")
        assert (check.verdict, check.threshold) == (verdict, allowed / size)


@pytest.mark.parametrize("tolerated", [0.002, 0.005, 0.01, 0.03, 0.25])
def test_shares_are_tested_by_an_exact_binomial_test(tolerated):
    for count in (1, 7, 128, 200, 1000):
        allowed = allowed_share(tolerated, count)
        for share, verdict in ((allowed, "passed"), (allowed + 1 / count, "failed")):
            check = make_count_check("a share", share, tolerated, count, "advice")
            assert (check.threshold, check.verdict) == (pytest.approx(allowed), verdict)
            assert check.advice == ("advice" if verdict == "failed" else "")
    # No examples.
    assert make_count_check("a share", 0.0, tolerated, 0, "advice").verdict == "passed"


def test_black_box_attacks_alone_or_first_skip_the_check():
    assert _turns((BLACK, 0.5, 0.0, 4))["black box"].verdict == "skipped"
    assert _turns((BLACK, 0.5, 0.0, 4), (WHITE, 0.4, 0.0, 4))["black box"].verdict == "skipped"
    search = PlannedAttack(kr.attacks.FMN(), is_unbounded=True)
    assert _turns((search, 0.5, 0.0, 4), (BLACK, 0.4, 0.0, 4))["black box"].verdict == "skipped"


def test_no_model_is_robust_without_a_limit():
    search = PlannedAttack(kr.attacks.FMN(), is_unbounded=True)
    report = AttackReport.of(search.attack, accuracy_so_far=0.5, num_attacked=4)
    worst = _worst(np.ones(5, "bool"))
    for distances, share, verdict in (
        ([0.1, 0.2, np.inf, 0.3, 0.0], 0.2, "failed"),
        ([0.1, 0.2, 0.9, 0.3, 0.0], 0.0, "passed"),
    ):
        worst.distances = np.array(distances)
        check = cheap_checks(INPUTS, worst, [search], [report], 256)[-1]
        assert (check.name, check.value, check.threshold) == ("unbounded attack", share, 0.0)
        assert check.verdict == verdict
        assert ("20.0% of the examples stay robust" in check.advice) is (verdict == "failed")
    assert _turns((WHITE, 0.5, 0.0, 4))["unbounded attack"].verdict == "skipped"


@pytest.mark.parametrize("proved,refuted", [([0, 1], 0), ([0, 3, 4], 1), ([2, 3, 4], 2)])
def test_no_attack_breaks_what_is_proved(proved, refuted):
    search = PlannedAttack(kr.attacks.FMN(), is_unbounded=True)
    report = AttackReport.of(search.attack, accuracy_so_far=0.4, num_attacked=4)
    worst = _worst(np.ones(5, "bool"), proved)
    worst.robust = np.array([1, 1, 0, 1, 0], "bool")
    check = cheap_checks(INPUTS, worst, [search], [report], 256)[-1]
    assert (check.name, check.value, check.threshold) == ("proofs", refuted / 5, 0.0)
    assert check.verdict == ("failed" if refuted else "passed")
    words = f"broke {refuted} examples that a certificate had proved robust, the first in row "
    assert check.advice.startswith(f"An attack {words}" if refuted else "")
    assert {0: "", 1: "row 4: the certificate is unsound", 2: "row 2: the"}[refuted] in check.advice


def test_a_refuted_proof_is_named_by_its_row_in_the_whole_data():
    worst = _worst(np.ones(5, "bool"), [0, 3])
    worst.robust, worst.numbers = np.array([1, 1, 1, 0, 1], "bool"), np.arange(2, 17, 3)
    report = AttackReport.of(WHITE, accuracy_so_far=0.8, num_attacked=3)
    check = cheap_checks(INPUTS, worst, [PlannedAttack(WHITE)], [report], 256)[-1]
    assert "the first in row 11: " in check.advice


def test_proofs_that_no_attack_tried_are_not_checked():
    search = PlannedAttack(kr.attacks.FMN(), is_unbounded=True)
    worst = _worst(np.ones(5, "bool"), [0, 1])
    for planned, count, verdict in (
        (PlannedAttack(WHITE), 3, "skipped"),
        (search, 0, "skipped"),
        (search, 5, "passed"),
    ):
        report = AttackReport.of(planned.attack, accuracy_so_far=1.0, num_attacked=count)
        check = cheap_checks(INPUTS, worst, [planned], [report], 256)[-1]
        assert (check.name, check.verdict) == ("proofs", verdict)
        assert check.advice.startswith("No attack ran on a proved example" * (verdict == "skipped"))
    # A mistake counts, whoever found it.
    worst.robust = np.array([0, 1, 1, 1, 1], "bool")
    report = AttackReport.of(WHITE, accuracy_so_far=0.8, num_attacked=3)
    check = cheap_checks(INPUTS, worst, [PlannedAttack(WHITE)], [report], 256)[-1]
    assert (check.verdict, check.value) == ("failed", 0.2)


def _evaluate(network, attacks, x=X, y=told.Y, **arguments):
    arguments = {"minimum_norm": None, **arguments}
    report = kr.evaluate(network, (x, y), kr.Linf(0.1), attacks, **arguments)
    return report, {check.name: check for check in report.checks}


def test_an_honest_model_passes_in_a_report():
    report, checks = _evaluate(lambda x: 10.0 * model(x), kr.attacks.PGD(num_steps=2))
    assert {check.verdict for check in checks.values()} == {"passed", "skipped"}
    assert report.warnings == [] and list(checks) == NAMES


# Code that compiles fast, as in the default tier on JAX, may round the saturated gradient.
@pytest.mark.exhaustive if backends.IS_JAX else lambda test: test
def test_saturated_probabilities_fail_in_a_report():
    attack = kr.attacks.BIM(num_steps=2)
    # Keras keeps the logits of its own softmax.
    report, checks = _evaluate(lambda x: ops.exp(ops.log_softmax(1000.0 * model(x))), attack)
    assert report.attacks[0].zero_gradient == 1.0
    assert report.robust_accuracy == report.clean_accuracy == 0.8
    assert checks["logits"].value == 1.0 and checks["logits"].verdict == "failed"
    assert checks["gradients"].value == 1.0 and checks["gradients"].verdict == "failed"


def test_masked_gradients_fail_in_a_report():
    x, y = X[:4], told.Y[:4]
    x = x + 0.05 * (0.5 - x)
    x[1, 0] = 0.55
    search = kr.attacks.FMN(num_steps=5)
    suite = [kr.attacks.PGD(num_steps=2, random_start=False), kr.attacks.Square(num_queries=50)]
    report, checks = _evaluate(told.reversed_model, suite, x, y, minimum_norm=search)
    assert [attack.accuracy for attack in report.attacks[:2]] == [1.0, 0.75]
    assert checks["black box"].value == 0.25 and checks["black box"].verdict == "failed"
    # The search finds no mistakes either, and none is farther than those of Square.
    assert checks["unbounded attack"].value == 0.75
    assert checks["unbounded attack"].verdict == "failed"


@pytest.mark.exhaustive
def test_nan_gradients_keep_the_attack_feasible_and_fail():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.7, size=(100, 4)).astype("float32")
    weights = np.array([[1, -1], [-1, 1], [1, -1], [-1, 1]], "float32")
    y = np.argmax(x @ weights, axis=-1)

    def poisoned(x):
        # The root of 0, below 0.65, has no gradient, which that of `relu` would hide on JAX.
        above = 0.5 * (ops.abs(x - 0.65) + (x - 0.65))
        more = ops.sqrt(ops.sum(above**2, axis=-1))
        return 5.0 * ops.matmul(x, weights) + 1e-6 * ops.stack([more, 0 * more], -1)

    attack = kr.attacks.PGD(num_steps=10)
    honest, _ = _evaluate(lambda x: 5.0 * ops.matmul(x, weights), attack, x, y)
    report, checks = _evaluate(poisoned, attack, x, y)
    assert honest.robust_accuracy < 0.3
    assert np.isfinite(report.x_adv).all() and report.warnings == []
    assert checks["gradients"].verdict == "failed"
    assert "its accuracy is too high" in checks["gradients"].advice
