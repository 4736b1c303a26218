import numpy as np

from keras_robust.attacks.worst_case import WorstCase
from keras_robust.evaluation.row_results import RowResults
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model


def test_the_results_of_a_worst_case():
    logits = np.asarray(model(X))
    worst = WorstCase(X, Y, logits, measures=True, numbers=np.arange(0, 10, 2))
    worst.adv_logits[1] = worst.adv_logits[1, ::-1]
    worst.robust[1] = False
    rows = RowResults.of(worst)
    np.testing.assert_array_equal(rows.predictions, [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(rows.adv_predictions, [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(rows.correct, [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(rows.robust, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(rows.distances, worst.distances)
    np.testing.assert_array_equal(rows.numbers, [0, 2, 4, 6, 8])
