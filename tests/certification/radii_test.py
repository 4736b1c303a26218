import numpy as np
import pytest

from keras_robust import certification
from keras_robust.certification.radii import check_largest_radius
from keras_robust.certification.radii import check_radius
from keras_robust.certification.radii import largest_radii
from keras_robust.certification.radii import radii_from_below
from keras_robust.certification.radii import with_progress
from tests.support import refusals


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


class _Asked:
    """Certifies radii up to a border, except those in gaps, and keeps what it was asked."""

    def __init__(self, border, gap=(0.0, 0.0)):
        self.border, self.gap = np.array(border), gap
        self.proved = [{0.0} for _ in border]
        self.calls = []

    def __call__(self, rows, radii):
        low, high = self.gap
        holds = (radii <= self.border[rows]) & ~((low < radii) & (radii < high))
        for row, radius, is_proved in zip(rows, radii, holds, strict=True):
            self.proved[row] |= {radius} if is_proved else set()
        self.calls.append((rows.tolist(), radii.tolist()))
        return holds


def test_doubling_and_bisection_find_each_border_from_below():
    border = np.array([0.0, 0.003, 0.01, 0.1, 0.25, 0.7, 5.0])
    asked = _Asked(border)
    found = radii_from_below(asked, np.full(7, 1.0), 12)
    assert found.dtype == "float64" and np.all(found <= border)
    # Relative to the radius, or to the first one that is tried.
    assert np.all((border - found)[:6] <= 2.0**-12 * np.maximum(border, 2.0**-7)[:6])
    np.testing.assert_array_equal(found[[0, 6]], [0.0, 1.0])
    # Large radii, which cost most, are tried only where half of them was certified.
    assert asked.calls[:3] == [
        ([0, 1, 2, 3, 4, 5, 6], [2.0**-7] * 7),
        ([2, 3, 4, 5, 6], [2.0**-6] * 5),
        ([3, 4, 5, 6], [2.0**-5] * 4),
    ]
    assert asked.calls[7] == ([5, 6], [1.0, 1.0])


def test_the_largest_radius_is_that_of_each_example():
    largest = np.array([0.5, 2.0, 8.0])
    found = radii_from_below(_Asked([9.0, 9.0, 3.0]), largest, 20)
    np.testing.assert_allclose(found, [0.5, 2.0, 3.0], rtol=1e-5)
    np.testing.assert_array_equal(largest, [0.5, 2.0, 8.0])


@pytest.mark.parametrize("gap", [(0.1, 0.3), (0.0, 0.05), (0.4, 0.9)])
def test_only_radii_that_were_certified_are_returned(gap):
    asked = _Asked(np.linspace(0.0, 1.2, 13), gap)
    found = radii_from_below(asked, np.full(13, 1.0), 6)
    assert all(radius in proved for radius, proved in zip(found, asked.proved, strict=True))
    assert found[-1] == (0.0 if gap[0] == 0.0 else max(asked.proved[-1]))


def test_without_steps_only_the_largest_radius_is_tried():
    asked = _Asked([0.5, 1.0, 2.0])
    np.testing.assert_array_equal(radii_from_below(asked, np.ones(3), 0), [0.0, 1.0, 1.0])
    assert asked.calls == [([0, 1, 2], [1.0, 1.0, 1.0])]


def test_radii_are_numbers_or_fractions():
    assert check_radius("radius", "8/255") == 8 / 255
    assert check_radius("radius", 30) == 30
    assert check_largest_radius((0.0, 1.0), "1/4") == 0.25
    assert check_largest_radius((0.0, 1.0), None) is None


@pytest.mark.parametrize("radius", [True, 0.0, -0.1, "0/3", "wide", "1/0", np.inf, np.nan, [0.1]])
def test_other_radii_are_refused(radius):
    message = r"`{}` must be a number.*, or a string such as '8/255'. Received: {}="
    with refusals.assert_refused(message.format("size", "size")):
        check_radius("size", radius)
    with refusals.assert_refused(message.format("max_radius", "max_radius")):
        check_largest_radius(None, radius)


def test_names():
    found = certification.get({"class_name": "keras_robust>Smoothing", "config": {}})
    assert isinstance(found, certification.Smoothing)
    assert isinstance(certification.get("smoothing"), certification.Smoothing)
    with pytest.raises(ValueError, match="Unknown certificate.*'smoothing'.*Received: 'magic'"):
        certification.get("magic")


def test_certify_must_be_implemented():
    with pytest.raises(NotImplementedError):
        certification.Certificate().certify(None, None)
