import keras

from keras_robust.backend.jax.scope import Scope
from keras_robust.backend.jax.scope import assign


def test_what_is_assigned_stays_inside():
    first, second = keras.Variable(1.0), keras.Variable(2.0)
    with Scope([(first, keras.ops.convert_to_tensor(5.0))]) as scope:
        second.assign(first.value + 1.0)
    assert float(first.value) == 1.0 and float(second.value) == 2.0
    assert list(map(id, scope.assigned)) == [id(second)]
    assert [float(value) for value in scope.values_of([first, second])] == [5.0, 6.0]
    assert {id(first), id(second)} <= set(scope.touched)
    assign([first], [keras.ops.convert_to_tensor(9.0)])
    assert float(first.value) == 9.0


def test_inner_scopes_read_from_outer_ones():
    variable = keras.Variable(1.0)
    with Scope([(variable, keras.ops.convert_to_tensor(5.0))]) as outer:
        with Scope() as inner:
            assert float(variable.value) == 5.0
            variable.assign(6.0)
        assert float(variable.value) == 5.0
        assign(inner.assigned, inner.values_of(inner.assigned))
    assert float(outer.values_of([variable])[0]) == 6.0
