from keras_robust.backend import NoGradientError
from tests.support import refusals


def test_the_message_names_the_framework_and_the_input():
    with refusals.assert_refused(r"leaves JAX \(`out`\).*shape \(2, 3\) and dtype float32"):
        raise NoGradientError("JAX", "out", [2, 3], "float32")


def test_saying_sets_another_message():
    error = NoGradientError.saying("Another reason.")
    assert isinstance(error, ValueError) and str(error) == "Another reason."
