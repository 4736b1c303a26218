import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from tests.support import backends
from tests.support import linear_model
from tests.support import refusals
from tests.support import tiers

BlackBox = kr.evaluation.BlackBox


def linear(x):
    return x.reshape(len(x), 12) @ linear_model.WEIGHTS + linear_model.BIAS


@tiers.parametrize(
    "attack", [kr.attacks.Square(num_queries=40), kr.attacks.SPSA(num_steps=4, num_samples=4)]
)
def test_is_attacked_like_the_model_itself(attack):
    x, y = linear_model.examples()
    ball, box = kr.Linf(0.15), BlackBox(linear, 2)
    found = attack.run(box, x, y, ball)
    expected = attack.run(linear_model.logits, x, y, ball)
    np.testing.assert_allclose(found.x_adv, expected.x_adv, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.success, expected.success)
    np.testing.assert_array_equal(found.queries, expected.queries)


@pytest.mark.exhaustive
def test_is_evaluated():
    x, y = linear_model.examples()
    attack = kr.attacks.Square(num_queries=100)
    report = kr.evaluate(BlackBox(linear, 2), (x, y), kr.Linf(0.15), attack, minimum_norm=None)
    assert report.clean_accuracy == 1.0 and report.robust_accuracy < 1.0
    with pytest.raises(ValueError, match="no gradient with respect to its input"):
        kr.evaluate(BlackBox(linear, 2), (x, y), kr.Linf(0.15), "pgd")


def test_the_function_gets_float32_batches_of_the_given_size():
    seen = []

    def predict(x):
        seen.append((type(x), x.dtype.name, x.shape))
        return linear(x)

    x, y = linear_model.examples()
    kr.attacks.Square(num_queries=3).run(BlackBox(predict, 2), x, y, kr.Linf(1e-4), batch_size=4)
    # Six examples in two batches. JAX pads the second, and drops calls whose result is not used.
    sizes = {shape[0] for _, _, shape in seen}
    assert (sizes, len(seen)) == (({4}, 8) if backends.IS_JAX else ({4, 2}, 10))
    assert {place[:2] for place in seen} == {(np.ndarray, "float32")}
    assert {shape[1:] for _, _, shape in seen} == {linear_model.SHAPE}


def test_has_no_gradient():
    x, y = linear_model.examples()
    for attack in ("pgd", "fgsm"):
        with pytest.raises(ValueError, match="no gradient with respect to its input"):
            kr.attacks.get(attack)(BlackBox(linear, 2), x, y, kr.Linf(0.1))


def test_calls_inside_and_outside_of_traced_functions():
    x, _ = linear_model.examples()
    box = BlackBox(lambda x: linear(x).astype("float64"), 2)
    traced = backends.traced(box)
    for outputs in (box(keras.ops.convert_to_tensor(x)), traced(keras.ops.convert_to_tensor(x))):
        assert outputs.dtype == "float32"
        np.testing.assert_allclose(outputs, linear(x), rtol=1e-6)
    if backends.IS_JAX:
        return
    spec = tf.TensorSpec((None, *linear_model.SHAPE))
    assert traced.get_concrete_function(spec).structured_outputs.shape.as_list() == [None, 2]


def test_several_inputs_keep_their_structure():
    box = BlackBox(lambda x: np.stack([x["a"][:, 0], x["b"][:, 0]], axis=-1), 2)
    inputs = {"a": keras.ops.ones((3, 1)), "b": keras.ops.zeros((3, 2))}
    for call in (box, backends.traced(box)):
        assert np.asarray(call(inputs)).tolist() == [[1.0, 0.0]] * 3


def test_non_finite_scores_never_count_as_success():
    def predict(x):
        return np.where(np.abs(x - 0.5).max(axis=(1, 2, 3))[:, None] > 0.25, np.nan, linear(x))

    x, _ = linear_model.examples()
    x = 0.3 + 0.4 * x
    y = linear(x).argmax(-1)
    found = kr.attacks.Square(num_queries=100).run(BlackBox(predict, 2), x, y, kr.Linf(0.3))
    assert np.isfinite(predict(found.x_adv)).all()
    np.testing.assert_array_equal(linear(found.x_adv).argmax(-1) != y, found.success)


@tiers.parametrize(
    "predict,received",
    [
        (lambda x: linear(x)[:, :1], r"shape \(6, 1\)"),
        (lambda x: linear(x)[:3], r"shape \(3, 2\)"),
        (lambda x: linear(x)[0], r"shape \(2,\)"),
        (lambda x: [["yes", "no"]] * len(x), "dtype <U3"),
    ],
)
def test_wrong_outputs_are_named(predict, received):
    x, y = linear_model.examples()
    message = r"one number for each example and class, \(6, 2\)\. .*Received: .*" + received
    with refusals.assert_refused(message):
        kr.evaluate(BlackBox(predict, 2), (x, y), kr.Linf(0.1), kr.attacks.Square())
    with pytest.raises(Exception, match=message):
        kr.attacks.Square()(BlackBox(predict, 2), x, y, kr.Linf(0.1))


@tiers.parametrize(
    "predict,num_classes,has_advice",
    [
        (lambda x: linear(x)[:, :1], 2, True),
        (lambda x: linear(x)[:, 0], 2, True),
        (lambda x: linear(x)[:, 0], 3, False),
    ],
)
def test_the_error_for_one_column_says_what_to_return(predict, num_classes, has_advice):
    box = BlackBox(predict, num_classes)
    with pytest.raises(ValueError) as raised:
        box(linear_model.examples()[0])
    assert ("`np.stack([1 - p, p], axis=-1)`" in str(raised.value)) is has_advice


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((None, 10), "`predict` must be a function.* Received: None"),
        ((linear, 1), "`num_classes` must be an int >= 2.* Received: 1"),
        ((linear, "ten"), "`num_classes` must be an int >= 2.* Received: 'ten'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with refusals.assert_refused(message):
        BlackBox(*arguments)
