import keras
import pytest

import keras_robust as kr
from keras_robust.registry import Registry


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
def test_anything_else_is_told_the_known_names(identifier):
    message = "Unknown shape. Expected one of 'righttriangle', or an object of Shape. Received: "
    with pytest.raises(ValueError, match=message):
        get(identifier)
