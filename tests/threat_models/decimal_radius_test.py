import numpy as np

import keras_robust as kr
from keras_robust.threat_models.decimal_radius import decimal_radius


def test_the_radius_is_the_decimal_that_was_written():
    assert decimal_radius(kr.Linf(0.3)).tolist() == 0.3
    assert decimal_radius(kr.Linf("8/255")).tolist() == 0.03137255
    assert decimal_radius(kr.L2(1e-9)).tolist() == 1e-9
    assert decimal_radius(kr.Linf(np.array([[0.1], [0.7]]))).tolist() == [[0.1], [0.7]]
