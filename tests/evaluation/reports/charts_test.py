import re

import numpy as np
import pytest

from keras_robust.evaluation import robustness_curve
from keras_robust.evaluation.reports import charts
from tests.support import tiers

CURVE = {"epsilons": [0.0, 0.1, 0.4], "robust_accuracy": [0.9, 0.5, 0.25]}


@pytest.fixture(name="drawn")
def _drawn(monkeypatch):
    """Makes the charts return their axes and description instead of an element."""
    monkeypatch.setattr(charts, "to_svg", lambda figure, text: (figure.axes[0], text))


def _marks(axes):
    """Returns the vertical lines by label."""
    return {
        line.get_label(): line.get_xdata()[0]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("epsilon,end", [(0.2, 0.4), (0.8, 0.8)])
def test_the_curve_has_a_step_at_each_radius(epsilon, end):
    axes, text = charts.draw_curve(CURVE, epsilon, median=0.3)
    radii, shares = axes.lines[0].get_data()
    np.testing.assert_allclose(radii, [0.0, 0.1, 0.4, 1.04 * end])
    np.testing.assert_allclose(shares, [90, 50, 25, 25])
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert _marks(axes) == {f"epsilon {epsilon}": epsilon, "median 0.3": 0.3}
    assert text == (
        "Robust accuracy falls from 90.0% at radius 0 to 25.0% at 0.4, "
        f"epsilon at {epsilon}, median at 0.3."
    )


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("distances", [[np.inf, np.inf], [0.0, 0.0]])
def test_a_curve_that_never_falls(distances):
    axes, text = charts.draw_curve(robustness_curve(np.array(distances)))
    assert axes.get_xlim() == (0.0, 1.0)
    assert axes.get_legend() is None
    assert text.endswith("at 0.")


@pytest.mark.usefixtures("drawn")
def test_the_histogram_has_the_examples_that_have_a_distance():
    distances = np.array([0.0, 0.0, np.inf, 0.05, 0.06, 0.3])
    axes, text = charts.draw_distances(distances, epsilon=0.1)
    heights = np.array([bar.get_height() for bar in axes.patches])
    places = np.array([bar.get_x() + bar.get_width() / 2 for bar in axes.patches])
    assert heights.sum() == 3
    np.testing.assert_allclose(places[heights > 0], [0.055, 0.065, 0.295])
    assert _marks(axes) == {"epsilon 0.1": 0.1}
    assert text == (
        "Sizes of the smallest perturbations of 3 examples, from 0.05 to 0.3, epsilon at 0.1."
    )


@tiers.parametrize("epsilon", [None, 0.1, 0.0])
def test_elements(epsilon):
    for svg in (
        charts.draw_curve(CURVE, epsilon, None),
        charts.draw_distances(np.array([0.1, 0.2]), epsilon, 0.15),
    ):
        assert svg.startswith("<svg ")
        assert "var(--accent)" in svg
        assert not re.search(": #[0-9a-f]{3}", svg), "a colour that is not the page's"
        assert ("var(--warning)" in svg) == (epsilon is not None)
