"""The size of a radius: the least is half a gray level, in the units of the box."""

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.threat_models.units import size_of


@pytest.mark.parametrize(
    ("ball", "least"),
    [
        (kr.Linf(0.1), 1 / 510),
        (kr.Linf(8, bounds=(0, 255)), 0.5),
        # Half a gray level in each of sqrt(16) features.
        (kr.L2(1.0, bounds=(0, 255)), 0.5 * 4**0.5),
        (kr.L1(1.0, bounds=(0, 255)), 0.5 * 4),
        (kr.L2(1.0, bounds=(-3, 1)), 4 / 510 * 4**0.5),
    ],
)
def test_the_least_radius(ball, least):
    assert size_of(ball, (4, 4)).least == pytest.approx(least)


def test_a_size_that_is_not_known_counts_as_one_feature():
    assert size_of(kr.L2(1.0), (None, 4)).least == pytest.approx(1 / 510 * 4**0.25)


def test_nearest_mistakes_raise_the_least_radius():
    assert size_of(kr.Linf(0.01), (4,), median=2.0).least == pytest.approx(0.02)
    assert size_of(kr.Linf(0.01), (4,), median=0.1).least == pytest.approx(1 / 510)


@pytest.mark.parametrize(
    ("ball", "likely"),
    [
        (kr.Linf(8 / 255, bounds=(0, 255)), 8),  # A share of the box.
        (kr.Linf(8 / 255**2), 8 / 255),  # Gray levels that were divided twice.
        (kr.Linf(8 / 255**2, bounds=(0, 255)), 8),  # Both.
        (kr.Linf(1e-9), None),
        (kr.Linf(8, bounds=(0, 255)), None),
    ],
)
def test_the_likely_radius(ball, likely):
    size = size_of(ball, (16,))
    assert (size.likely if size.complaint else None) == (likely and pytest.approx(likely))
    assert (size.complaint is None) == (size.epsilon >= size.least)


def test_the_complaint_names_the_numbers():
    complaint = size_of(kr.Linf("8/255", bounds=(0, 255)), (16,)).complaint
    said = "whose range is 255: an epsilon below 0.5 changes hardly anything. Was 8 meant? Give"
    assert said in complaint


def test_the_feature_counts_whose_radius_is_largest_against_its_box():
    low, high = np.array([0.0, 0.0, 2.0]), np.array([1.0, 100.0, 2.0])
    size = size_of(kr.Linf([0.1, 1.0, 0.0], bounds=(low, high)), (3,))
    assert (size.epsilon, size.width) == pytest.approx((0.1, 1.0))


def test_without_a_box_the_range_of_the_inputs_takes_its_place():
    size = size_of(kr.Linf(0.1, bounds=None), (3,), extent=(-2.0, 3.0))
    assert (size.width, size.least) == pytest.approx((5.0, 5 / 510))
    assert size_of(kr.Linf(0.1, bounds=None), (3,)) is None


@pytest.mark.parametrize("ball", [kr.Linf(0.0), kr.threat_models.L0(2)])
def test_radii_without_a_size(ball):
    assert size_of(ball, (3,)) is None


def test_a_radius_larger_than_the_range_is_reported():
    assert size_of(kr.Linf(0.99), (4,)).complaint is None
    assert size_of(kr.L2(2.0), (4,)).complaint is None
    text = "Epsilon is larger than the range of the inputs allows, 2: every example"
    assert size_of(kr.L2(2.1), (4,)).complaint.startswith(text)
    assert "allows, 1: " in size_of(kr.Linf(8.0, bounds=None), (4,), (0.0, 1.0)).complaint
