import numpy as np
import pytest

from keras_robust import certification
from keras_robust.certification.certificate import largest_radii
from keras_robust.certification.certificate import with_progress


def test_bisection_finds_each_border_from_below():
    border = np.array([0.0, 0.1, 0.25, 0.7, 5.0])
    asked = []

    def is_certified(radii):
        asked.append(radii.copy())
        return radii <= border

    found = largest_radii(is_certified, np.zeros(5), np.full(5, 1.0), 12)
    assert np.all(found <= border)
    np.testing.assert_allclose(found[:4], border[:4], rtol=0, atol=2.0**-12)
    assert found[4] == 1.0
    # Every returned radius was tested, or is the given lower end.
    for row, radius in enumerate(found):
        assert radius == 0.0 or any(radius == radii[row] for radii in asked)


def test_the_bar_counts_examples_and_the_batches_are_the_same_without_it(capsys):
    assert (
        list(with_progress(5, 2, verbose=True))
        == list(with_progress(5, 2, verbose=False))
        == [0, 2, 4]
    )
    assert "5/5" in capsys.readouterr().out


def test_radii_that_are_already_certified_stay():
    low = np.array([0.5, 0.5])
    found = largest_radii(lambda radii: np.zeros(2, bool), low, np.ones(2), 5)
    np.testing.assert_array_equal(found, [0.5, 0.5])
    np.testing.assert_array_equal(low, [0.5, 0.5])


def test_names():
    found = certification.get({"class_name": "keras_robust>Smoothing", "config": {}})
    assert isinstance(found, certification.Smoothing)
    assert isinstance(certification.get("smoothing"), certification.Smoothing)
    with pytest.raises(ValueError, match="Unknown certificate.*'smoothing'.*Received: 'magic'"):
        certification.get("magic")


def test_certify_must_be_implemented():
    with pytest.raises(NotImplementedError):
        certification.Certificate().certify(None, None)
