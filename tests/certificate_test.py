import numpy as np
import pytest

import keras_robust as kr
from keras_robust.certificate import Certificate
from keras_robust.certificate import registry

BOX = (-0.5, 1.5)
METHODS = kr.certification


class _Fixed(Certificate):
    norm = "L1"

    def __init__(self, radii):
        self.radii = radii


def test_a_certificate_that_finds_radii_directly_is_itself_at_a_radius():
    method = _Fixed([0.1, 0.2])
    assert method.at_radius(0.1, BOX) is method and method.resolve(None) is method
    assert (method.norm, method.bounds, method.is_about_model) == ("L1", None, True)
    with pytest.raises(NotImplementedError):
        method.certify(None, np.zeros((1, 2)))
    assert METHODS.Lipschitz().at_radius(0.1, BOX).get_config() == {}


@pytest.mark.parametrize(
    "method,changed",
    [
        (METHODS.Interval(), {"max_radius": 0.25, "num_steps": 0}),
        (METHODS.Crown("L2"), {"max_radius": 0.25, "num_steps": 0}),
        (METHODS.AlphaCrown(num_iterations=3), {"max_radius": 0.25, "num_steps": 0}),
        (METHODS.Complete(0.1, time_limit=2.0), {"radius": 0.25}),
        (METHODS.Linear("L1", num_steps=9), {}),
    ],
)
def test_searches_try_one_radius_and_keep_their_other_arguments(method, changed):
    found = method.at_radius(0.25, BOX)
    assert type(found) is type(method)
    assert found.get_config() == {**method.get_config(), **changed, "bounds": list(BOX)}
    # The certificate itself is as before.
    assert method.get_config()["bounds"] == [0.0, 1.0]


def test_only_smoothing_is_not_about_the_model():
    about = {name: cls.is_about_model for name, cls in registry.classes.items()}
    assert [name for name, is_about in about.items() if not is_about] == ["smoothing"]
    assert len(about) == len(kr.certification.ALL) == 7
