import re

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust.registry import Registry
from tests.support import refusals


class Shape:
    def __init__(self, sides=4):
        self.sides = sides

    def get_config(self):
        return {"sides": self.sides}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_robust_tests")
class RightTriangle(Shape):
    def __init__(self, sides=3):
        super().__init__(sides)


class Hexagon(Shape):
    def __init__(self, sides=6):
        super().__init__(sides)


class Polygon(Shape):
    """A class with required and arbitrary other arguments."""

    def __init__(self, sides, *, angle, colour="red", **others):
        super().__init__(sides)


class Circle(Shape):
    def __init__(self, *centre, **others):
        super().__init__(0)


get = Registry("shape", Shape, [RightTriangle]).get


@pytest.mark.parametrize(
    "name", ["RightTriangle", "righttriangle", "right_triangle", "RIGHTTRIANGLE"]
)
def test_names_in_any_case(name):
    assert type(get(name)) is RightTriangle


def test_instances_are_returned_and_classes_called():
    shape = Hexagon(7)
    assert get(shape) is shape
    # Also a class that the registry does not know.
    assert get(Hexagon).sides == 6


def test_configs_are_read():
    shape = get(keras.saving.serialize_keras_object(RightTriangle(5)))
    assert (type(shape), shape.sides) == (RightTriangle, 5)


@pytest.mark.parametrize(
    "identifier", ["circle", None, 3, dict, {}, {"sides": 3}, kr.attacks.PGD()]
)
def test_the_error_lists_the_known_names(identifier):
    message = "Unknown shape. Expected one of 'righttriangle', or an object of Shape. Received: "
    with pytest.raises(ValueError, match=message):
        get(identifier)


def test_the_error_for_labels_points_to_the_data():
    message = r"Received: an array of shape \(3,\). Examples and labels are one argument: data="
    for labels in (np.arange(3), keras.ops.arange(3)):
        with refusals.assert_refused(message):
            get(labels)
        with refusals.assert_refused(message):
            kr.evaluate(lambda x: x, np.zeros((3, 2), "float32"), labels)
        with refusals.assert_refused(message):
            kr.certify(lambda x: x, np.zeros((3, 2), "float32"), labels)
        with refusals.assert_refused(message):
            kr.RobustValidation(np.zeros((3, 2), "float32"), labels)
    with refusals.assert_refused(message):
        kr.evaluate(lambda x: x, np.zeros((3, 2), "float32"), [0, 1, 0])


def test_the_error_lists_names_of_the_caller():
    error = Registry("shape", Shape, [RightTriangle]).unknown("heptagn", ["heptagon", "line"])
    message = "Expected one of 'heptagon', 'line', 'righttriangle', or .* Did you mean 'heptagon'?"
    assert re.search(message, str(error))
    with pytest.raises(ValueError, match="Received: 'standart'. Did you mean 'standard'?"):
        data = np.full((2, 2), 0.5, "float32"), np.arange(2)
        kr.evaluate(lambda x: x, data, attacks="standart")


def test_the_error_suggests_the_nearest_name():
    with pytest.raises(
        ValueError, match="Received: 'right_triangel'. Did you mean 'righttriangle'"
    ):
        get("right_triangel")


@pytest.mark.parametrize("identifier", ["Polygon", "polygon", Polygon])
def test_a_class_with_required_arguments_needs_an_instance(identifier):
    message = re.escape(
        "The shape Polygon needs arguments, so its name alone is not enough: pass "
        f"Polygon(sides=..., angle=...). Received: {identifier!r}"
    )
    with pytest.raises(ValueError, match=message):
        Registry("shape", Shape, [Polygon]).get(identifier)


def test_arguments_with_defaults_are_not_needed():
    registry = Registry("shape", Shape, [Polygon, Hexagon])
    assert registry.get("hexagon").sides == 6
    assert registry.get(Circle).sides == 0
    polygon = Polygon(5, angle=1)
    assert registry.get(polygon) is polygon


def test_classes_may_be_added_later():
    registry = Registry("shape", Shape)
    with pytest.raises(ValueError, match="Unknown shape. Expected one of , or an object of Shape"):
        registry.get("hexagon")
    registry.extend([Hexagon, RightTriangle])
    assert registry.get("hexagon").sides == 6
    assert registry.get("right_triangle").sides == 3
