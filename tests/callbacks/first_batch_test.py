import re
import warnings

import numpy as np
import pytest

import keras_robust as kr
from tests.support import linear_fit
from tests.support import refusals
from tests.support import several_inputs
from tests.support import tiers

X, Y = linear_fit.data(8)


def _warnings(ball, x=X, **compile_arguments):
    model = linear_fit.make_model(**compile_arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = kr.AdvTrain(ball, attack="fgsm", warmup=0)
        model.fit(x, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    return [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


@tiers.parametrize(
    "ball,x,meant",
    [
        (kr.Linf(8 / 255, bounds=(0, 255)), 255 * X, 8.0),
        (kr.L2(0.5, bounds=(0, 255)), 255 * X, 127.5),
        (kr.L1(0.5, bounds=(0, 255)), 255 * X, 127.5),
        (kr.Linf(1e-4), X, 0.0255),
    ],
)
def test_a_tiny_epsilon_gives_a_warning_with_a_suggestion(ball, x, meant):
    (message,) = _warnings(ball, x)
    assert float(re.search(r"Was (\S+) meant\?", message)[1]) == meant
    assert message.endswith(f"Received: {ball!r}")


@pytest.mark.exhaustive
def test_without_bounds_the_range_of_the_batch_is_used():
    (message,) = _warnings(kr.Linf(8 / 255, bounds=None), 1000 * X)
    scale = 1000 * (X.max() - X.min())
    assert f"range is {scale:.4g}: an epsilon below {scale / 510:.4g} changes hardly" in message
    (message,) = _warnings(kr.L2(0.1, bounds=None), 1000 * X)
    least = scale / 510 * 4**0.25
    assert f"range is {scale:.4g}: an epsilon below {least:.4g} changes hardly" in message
    assert not _warnings(kr.Linf(0.02, bounds=None))


@tiers.parametrize(
    "ball,is_told",
    [
        (kr.Linf(8, bounds=(0, 255)), True),
        (kr.Linf(0.9, bounds=(0, 255)), False),
        # The diagonal of four features is 2 wide in L2, and 4 in L1.
        (kr.L2(2.1, bounds=(0, 255)), True),
        (kr.L2(1.9, bounds=(0, 255)), False),
        (kr.L1(4.1, bounds=(0, 255)), True),
        (kr.L1(3.9, bounds=(0, 255)), False),
    ],
)
def test_an_epsilon_beyond_the_range_of_the_batch_gives_a_warning(ball, is_told):
    found = _warnings(ball, (X - X.min()) / (X.max() - X.min()))
    assert len(found) == is_told
    assert (
        not found or "Epsilon is larger than the range of all values in the first batch" in found[0]
    )


@pytest.mark.exhaustive
def test_a_warm_up_hides_nothing_and_xla_changes_nothing():
    model = linear_fit.make_model(jit_compile=True)
    callback = kr.AdvTrain(kr.Linf(8, bounds=(0, 255)), attack="fgsm", warmup=100)
    message = "Epsilon is larger than the range of all values"
    with refusals.assert_warned_once(message):
        model.fit(X, Y, verbose=0, epochs=2, callbacks=[callback])


@pytest.mark.exhaustive
def test_each_of_several_inputs_is_checked():
    x = several_inputs.parted(X)
    for ball, message in (
        (kr.Linf(8, bounds=(0, 255)), "Epsilon is larger than the range of all values"),
        (kr.Linf(1e-4), "Was 0.0255 meant?"),
        (None, None),
    ):
        callback = kr.AdvTrain({"a": kr.Linf(0.1), **({"b": ball} if ball else {})}, attack="fgsm")
        expected = (
            pytest.warns(UserWarning, match=message) if message else warnings.catch_warnings()
        )
        with expected:
            several_inputs.parted_model().fit(x, Y, batch_size=8, verbose=0, callbacks=[callback])


def test_usual_radii_give_no_warning():
    assert not _warnings(kr.Linf("8/255"))
    assert not _warnings(kr.Linf(0.0))
    assert np.ptp(X) > 0.9
