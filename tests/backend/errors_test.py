import pytest

from keras_robust.backend import NoGradientError


def test_says_the_framework_its_way_out_and_the_input():
    with pytest.raises(ValueError, match=r"leaves JAX \(`out`\).*shape \(2, 3\) and dtype float32"):
        raise NoGradientError("JAX", "out", [2, 3], "float32")


def test_can_say_something_else():
    error = NoGradientError.saying("Another reason.")
    assert isinstance(error, ValueError) and str(error) == "Another reason."
