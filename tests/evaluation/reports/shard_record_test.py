import numpy as np

import keras_robust as kr
from tests.support.told import BALL
from tests.support.told import Fixed
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model


def test_the_record_of_a_shard():
    # The first leaves the ball, and the second the box.
    attack = Fixed([0.0, -0.31, 0.0, -0.3, 0.0])
    report = kr.evaluate(model, (X, Y), BALL, attack, minimum_norm=None, shard="1/2")
    record = report.shard
    assert (str(record.shard), record.num_examples, report.num_examples) == ("1/2", 5, 2)
    assert (record.uses_gradients, record.num_outside) == ([1], [2])
    assert set(record.evaluation) == {
        *("data", "threat_model", "attacks", "seed", "version", "certificates", "weights"),
        *("batch_size", "model", "versions"),
    }
    rows = record.results()
    np.testing.assert_array_equal(rows.numbers, [1, 3])
    np.testing.assert_array_equal(rows.y, Y[[1, 3]])
    np.testing.assert_array_equal(rows.robust, [True, True])
    assert rows.robust.dtype == bool
    # A mistake outside of the ball counts for the curve.
    np.testing.assert_allclose(rows.distances, [0.31, np.inf], rtol=1e-5)
    np.testing.assert_array_equal(report.x, X[[1, 3]])
    # The units of the radius: half a gray level of a box of width 1 at least.
    assert record.sizes[0][:2] == [0.3, 1 / 510]
