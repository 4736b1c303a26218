import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.attacks.search_problem import SearchProblem
from keras_robust.attacks.universal_search import search_universal

X = np.array([[0.6, 0.4], [0.3, 0.4], [0.9, 0.2]], "float32")
Y = np.array([0, 1, 0], "int32")


def problem(**changes):
    ball = kr.threat_models.Universal(kr.Linf(0.1))
    seed = np.array([1, 2], "int32")
    return SearchProblem(models.Classifier(lambda x: x), X, Y, ball, seed)._replace(**changes)


def test_all_examples_get_the_perturbation_of_the_sum():
    found = search_universal(kr.attacks.FGSM(), problem())
    np.testing.assert_allclose(found.x_adv, X + [-0.1, 0.1], rtol=0, atol=1e-6)
    # 0.5 < 0.5 is no mistake of `argmax`; the second example stays right.
    logits = np.asarray(found.x_adv)
    np.testing.assert_array_equal(found.success, np.argmax(logits, axis=-1) != Y)
    expected = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(3), Y]
    np.testing.assert_allclose(found.loss, expected, rtol=0, atol=1e-6)
    # The clean and the final examples, and one step with its own two passes.
    assert len(set(np.asarray(found.queries).tolist())) == 1


def test_training_gets_the_last_point():
    found = search_universal(kr.attacks.FGSM(), problem(keep_best=False))
    np.testing.assert_allclose(found.x_adv, X + [-0.1, 0.1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.zero_gradient, [False] * 3)


def test_restarts_are_refused():
    with pytest.raises(ValueError, match="Received: PGD.* with 2 searches, under Universal"):
        search_universal(kr.attacks.PGD(num_restarts=2), problem())
    with pytest.raises(ValueError, match="num_targets=1.*Received: TargetedAPGD.* with 9 searches"):
        search_universal(kr.attacks.TargetedAPGD(), problem())


@pytest.mark.parametrize("name", ["FMN", "DeepFool", "FAB", "HopSkipJump"])
def test_attacks_that_maximize_no_loss_are_refused(name):
    with pytest.raises(ValueError, match=f"maximizes a loss.*Received: {name}"):
        search_universal(getattr(kr.attacks, name)(), problem())
