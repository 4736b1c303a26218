import numpy as np

from keras_robust.evaluation.outcomes import outcomes_of


def test_a_mistake_refutes_a_proof():
    broken, proved = np.array([1, 1, 0, 0], "bool"), np.array([0, 1, 1, 0], "bool")
    found = outcomes_of(broken, proved)
    assert found == ["broken", "broken", "proved", "inconclusive"]
    assert len(found) == 4 and {type(one) for one in found} == {str}
