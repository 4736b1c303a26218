import contextlib
import sys
import threading

import keras
import numpy as np
import pytest

from keras_robust.backend import patched as module
from keras_robust.backend.patched import patched

X = np.ones((1, 1), "float32")


class Double(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x


def plus_one(layer):
    call = layer.call
    return lambda x: call(x) + 1.0


def times_ten(layer):
    call = layer.call
    return lambda x: 10.0 * call(x)


def answer(layer):
    return float(keras.ops.convert_to_numpy(layer(X))[0, 0])


def assert_untouched(layer):
    assert answer(layer) == 2.0 and "call" not in vars(layer)
    assert module._PATCHES == {}


@contextlib.contextmanager
def patched_in_a_thread(layer, make):
    """Another thread is inside `patched` as long as this context."""
    inside, leave = threading.Event(), threading.Event()

    def run():
        with patched(layer, "call", make):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def test_a_method_is_replaced_inside_and_only_on_one_layer():
    layer, other = Double(), Double()
    with patched(layer, "call", plus_one) as replacement:
        assert vars(layer)["call"] is replacement
        assert (answer(layer), answer(other)) == (3.0, 2.0)
    assert_untouched(layer)


def test_an_attribute_of_the_instance_is_restored():
    layer = Double()
    vars(layer)["call"] = own = lambda x: 5.0 * x
    with patched(layer, "call", plus_one):
        assert answer(layer) == 6.0
    assert vars(layer)["call"] is own and answer(layer) == 5.0
    vars(layer)["call"] = None
    with patched(layer, "call", lambda layer: 7):
        assert layer.call == 7
    assert vars(layer)["call"] is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StopIteration, GeneratorExit])
def test_restored_after_an_exception(error):
    layer = Double()
    with pytest.raises(error), patched(layer, "call", plus_one):
        with pytest.raises(error), patched(layer, "call", times_ten):
            assert answer(layer) == 30.0
            raise error
        assert answer(layer) == 3.0
        raise error
    assert_untouched(layer)


def test_nothing_changes_if_there_is_no_replacement():
    layer = Double()
    with pytest.raises(ZeroDivisionError), patched(layer, "call", lambda layer: 1 / 0):
        pass
    assert_untouched(layer)
    with patched(layer, "call", plus_one):
        with pytest.raises(ZeroDivisionError), patched(layer, "call", lambda layer: 1 / 0):
            pass
        assert answer(layer) == 3.0
    assert_untouched(layer)


def test_nested_users_share_a_replacement():
    layer = Double()
    with patched(layer, "call", plus_one) as outer:
        with patched(layer, "call", plus_one) as inner:
            assert inner is outer and answer(layer) == 3.0
        assert answer(layer) == 3.0
    assert_untouched(layer)


def test_another_replacement_wraps_the_one_before():
    layer = Double()
    with patched(layer, "call", plus_one):
        with patched(layer, "call", times_ten), patched(layer, "call", plus_one):
            assert answer(layer) == 30.0
        assert answer(layer) == 3.0
    assert_untouched(layer)


@pytest.mark.parametrize(("make", "both"), [(plus_one, 3.0), (times_ten, 30.0)])
def test_the_first_thread_may_leave_first(make, both):
    layer, seen = Double(), [2.0]
    with contextlib.ExitStack() as second:
        with patched_in_a_thread(layer, plus_one):
            seen.append(answer(layer))
            second.enter_context(patched_in_a_thread(layer, make))
            seen.append(answer(layer))
        seen.append(answer(layer))
    assert seen == [2.0, 3.0, both, both]
    assert_untouched(layer)


def test_an_attribute_of_the_instance_is_restored_after_the_last_thread():
    layer = Double()
    vars(layer)["call"] = own = lambda x: 5.0 * x
    with contextlib.ExitStack() as second:
        with patched_in_a_thread(layer, plus_one):
            second.enter_context(patched_in_a_thread(layer, times_ten))
        assert answer(layer) == 60.0
    assert vars(layer)["call"] is own and answer(layer) == 5.0


def test_many_threads():
    layer, start, seen = Double(), threading.Barrier(4), set()

    def run():
        start.wait()
        for _ in range(500):
            with patched(layer, "call", plus_one):
                seen.add(layer.call(1.0))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen == {3.0}
    assert_untouched(layer)
