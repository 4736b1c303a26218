import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr
from keras_robust.attacks.result import AttackResult
from keras_robust.attacks.result import choose
from keras_robust.attacks.result import counted
from keras_robust.attacks.result import select
from keras_robust.attacks.result import strongest
from tests.support import backends

FIRST = AttackResult(
    x_adv=np.zeros((4, 2), "float32"),
    loss=np.array([1.0, 2.0, 3.0, 4.0], "float32"),
    success=np.array([True, False, False, True]),
    zero_gradient=np.array([True, False, True, False]),
    queries=np.array([1, 2, 3, 4], "int32"),
)
SECOND = AttackResult(
    x_adv=np.ones((4, 2), "float32"),
    loss=np.array([5.0, 1.0, 4.0, 1.0], "float32"),
    success=np.array([False, True, False, True]),
    zero_gradient=np.array([False, True, False, True]),
    queries=np.array([10, 20, 30, 40], "int32"),
)


def test_success_ranks_before_the_loss():
    found = strongest(FIRST, SECOND)
    np.testing.assert_array_equal(found.x_adv[:, 0], [0.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(found.loss, [1.0, 1.0, 4.0, 4.0])
    np.testing.assert_array_equal(found.success, [True, True, False, True])


def test_queries_are_added_and_all_gradients_must_have_been_zero():
    both = SECOND._replace(zero_gradient=np.array([True, True, False, False]))
    np.testing.assert_array_equal(strongest(FIRST, both).zero_gradient, [True, False, False, False])
    np.testing.assert_array_equal(strongest(FIRST, SECOND).queries, [11, 22, 33, 44])


def test_choose_and_select_take_one_or_the_other_for_each_example():
    condition = np.array([True, False, True, False])
    found = choose(condition, FIRST, SECOND)
    np.testing.assert_array_equal(found.loss, [1.0, 1.0, 3.0, 1.0])
    np.testing.assert_array_equal(found.queries, [1, 20, 3, 40])
    np.testing.assert_array_equal(select(condition, FIRST.x_adv, SECOND.x_adv)[:, 1], [0, 1, 0, 1])


def test_scored_points_have_the_loss_and_success_of_the_score():
    found = kr.attacks.AttackResult.scored(
        SECOND.x_adv, lambda x: (x[:, 0] + 2.0, x[:, 1] > 0.5), queries=7
    )
    np.testing.assert_array_equal(found.x_adv, SECOND.x_adv)
    np.testing.assert_array_equal(found.loss, [3.0, 3.0, 3.0, 3.0])
    np.testing.assert_array_equal(found.success, [True, True, True, True])
    np.testing.assert_array_equal(found.zero_gradient, [False, False, False, False])
    np.testing.assert_array_equal(found.queries, [7, 7, 7, 7])


def test_unattacked_results_have_no_queries_and_no_success():
    found = kr.attacks.AttackResult.unattacked(SECOND.x_adv)
    np.testing.assert_array_equal(found.x_adv, SECOND.x_adv)
    for field in found[1:]:
        np.testing.assert_array_equal(field, [0, 0, 0, 0])
    assert np.asarray(counted((3,), 7)).tolist() == [7, 7, 7]


def test_unattacked_results_report_no_success_and_no_zero_gradient():
    x = keras.ops.convert_to_tensor(np.arange(6.0, dtype="float32").reshape(3, 2))
    found = AttackResult.unattacked(x)
    assert found.x_adv is x
    np.testing.assert_array_equal(found.loss, np.zeros(3))
    # No gradient was computed, so zero gradients are not reported.
    for flags in (found.success, found.zero_gradient):
        np.testing.assert_array_equal(flags, [False, False, False])
        assert flags.dtype == "bool"


@backends.tensorflow_only("a batch of unknown size is TensorFlow's")
def test_unattacked_examples_in_a_batch_of_unknown_size():
    sizes = []

    @tf.function(input_signature=[tf.TensorSpec((None, 2))])
    def count(x):
        sizes.append(x.shape[0])
        return AttackResult.unattacked(x).zero_gradient

    assert [len(count(keras.ops.ones((size, 2)))) for size in (3, 5)] == [3, 5]
    assert sizes == [None]
