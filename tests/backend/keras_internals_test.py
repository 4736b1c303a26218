"""The contract with Keras: each private name that we touch means what we take it to mean."""

import ast
import gc
import inspect
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_robust import backend
from keras_robust.backend import keras_internals
from tests.support import backends
from tests.support import linear_fit

ROOT = pathlib.Path(__file__).resolve().parents[2]
X, Y = linear_fit.data(24)


class Slotted:
    """A tensor that takes no attributes, like a tracer of JAX."""

    __slots__ = ("__weakref__",)


def test_finds_the_inputs_of_a_softmax():
    logits = ops.convert_to_tensor(np.array([[1.0, 2.0]], "float32"))
    found = keras_internals.keras_logits(keras.activations.softmax(logits))
    np.testing.assert_array_equal(found, logits)
    assert keras_internals.keras_logits(logits) is None


def test_logits_of_tracers_live_as_long_as_the_tracers():
    one, other = Slotted(), Slotted()
    keras_internals.set_keras_logits(one, "first")
    keras_internals.set_keras_logits(one, "second")
    assert keras_internals.keras_logits(one) == "second"
    assert keras_internals.keras_logits(other) is None
    key = id(one)
    del one
    gc.collect()
    assert key not in keras_internals._LOGITS


def test_layers_within_layers_are_found():
    dense = keras.layers.Dense(2)
    inner = keras.Sequential([keras.Input((3,)), dense])
    model = keras.Sequential([keras.Input((3,)), inner])
    found = keras_internals.layers_of(model)
    assert {id(one) for one in (model, inner, dense)} <= {id(one) for one in found}
    below = {id(one) for one in keras_internals.layers_of(model, include_self=False)}
    assert below == {id(one) for one in found} - {id(model)}
    # Besides them the inputs of both models.
    assert (len(found), len(below)) == (5, 4)
    assert keras_internals.layers_of(lambda x: x) == []


def _graph():
    tensor = keras.Input((4,))
    first, second = keras.layers.ReLU(), keras.layers.Dense(2)
    return keras.Model(tensor, second(first(tensor))), first, second


def test_output_layer_and_input_tensors_of_a_graph():
    model, first, second = _graph()
    assert keras_internals.output_layer(model) is second
    assert keras_internals.output_layer(keras.Sequential([keras.Input((4,)), model])) is second
    assert keras_internals.output_layer(first) is None
    assert keras_internals.input_tensors_of(first)[0] is model.inputs[0]
    assert keras_internals.input_tensors_of(second)[0] is not model.inputs[0]


def test_a_graph_runs_on_other_values():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.ReLU()])
    graph, seen = keras_internals.graph_of(model), []

    def replace(layer):
        seen.append(layer.name)
        return lambda value: value + 1

    assert keras_internals.run_graph(graph, 5, replace) == 7
    assert [name for name in seen if "input" not in name] == [one.name for one in model.layers]
    assert len(graph.inputs) == len(graph.outputs) == 1
    functional = _graph()[0]
    assert keras_internals.graph_of(functional) is functional
    assert keras_internals.graph_of(keras.Sequential([keras.layers.Dense(2)])) is None


def test_classes_of_keras_are_recognized():
    assert keras_internals.is_defined_by_keras(keras.Model)
    assert keras_internals.is_defined_by_keras(type(_graph()[0]))
    assert not keras_internals.is_defined_by_keras(Slotted)


def test_masks_are_read_and_set():
    x = ops.convert_to_tensor(np.array([[1, 0]]))
    layer = keras.layers.Embedding(3, 2, mask_zero=True)
    mask = keras_internals.get_keras_mask(layer(x))
    np.testing.assert_array_equal(mask, [[True, False]])
    other = ops.zeros((1, 2, 2))
    keras_internals.set_keras_mask(other, mask)
    assert keras_internals.get_keras_mask(other) is mask


def test_regularizers_can_be_disabled_and_replaced():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_regularizer="l2")])
    model.compile("sgd", "mse")
    x, y = np.ones((3, 2), "float32"), np.zeros((3, 1), "float32")
    outputs = model(x)
    with keras_internals.with_regularisers(model, []):
        without = model.compute_loss(x=x, y=y, y_pred=outputs)
    others = [ops.convert_to_tensor(2.0), ops.convert_to_tensor(5.0)]
    with keras_internals.with_regularisers(model, others):
        assert list(model.losses) == others
        replaced = model.compute_loss(x=x, y=y, y_pred=outputs)
    np.testing.assert_allclose(replaced - without, 7.0, rtol=1e-6)
    np.testing.assert_allclose(without, np.mean(np.square(outputs)), rtol=1e-6)
    whole = model.compute_loss(x=x, y=y, y_pred=outputs)
    penalty = 0.01 * float(ops.sum(ops.square(model.layers[0].kernel)))
    np.testing.assert_allclose(whole - without, penalty, rtol=1e-4)


def test_added_losses_are_those_of_the_last_run():
    active = keras.layers.Activation("linear", activity_regularizer=keras.regularizers.L2(1.0))
    head = keras.layers.Dense(1, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((2,)), active, head])
    found = []
    for scale in (1.0, 2.0):
        model(np.full((3, 2), scale, "float32"))
        added = keras_internals.added_losses(model)
        # Keras lists them first, and then the regularizers of the weights.
        first, of_weights = model.losses
        assert len(added) == 1 and added[0] is first
        np.testing.assert_allclose(of_weights, 0.01 * ops.sum(ops.square(head.kernel)), rtol=1e-6)
        found.append(float(first))
    assert found[1] == pytest.approx(4.0 * found[0])
    assert keras_internals.added_losses(lambda x: x) == []


def test_the_metrics_of_several_outputs_can_be_disabled():
    tensor = keras.Input((4,))
    outputs = {name: keras.layers.Dense(1, name=name)(tensor) for name in ("a", "b")}
    model = keras.Model(tensor, outputs)
    model.compile("sgd", {"a": "mse", "b": "mse"})
    x, y = np.ones((2, 4), "float32"), {name: np.zeros((2, 1), "float32") for name in "ab"}
    model.train_on_batch(x, y)
    model.reset_metrics()
    with keras_internals.without_output_metrics(model):
        model.compute_loss(x=x, y=y, y_pred=model(x))
    assert float(model.get_metrics_result()["a_loss"]) == 0.0
    model.compute_loss(x=x, y=y, y_pred=model(x))
    assert float(model.get_metrics_result()["a_loss"]) > 0.0


def test_compiled_metrics_and_loss_can_be_built_from_symbols():
    model = linear_fit.make_model()
    parts = keras_internals.compiled_parts(model)
    assert len(parts) == 2 and not any(part.built for part in parts)
    outputs = model(keras.KerasTensor((None, 4)))
    for part in parts:
        part.build(keras.KerasTensor((None,), "int64"), outputs)
    assert all(part.built for part in parts)
    assert linear_fit.fit(model, keras.callbacks.Callback()).history["accuracy"]


@pytest.mark.skipif(not backends.IS_JAX, reason="TensorFlow trains the variables in place")
def test_jax_copies_the_state_into_the_variables_when_fit_is_left():
    model = linear_fit.make_model()
    model.optimizer.build(model.trainable_variables)
    parts = model.trainable_variables, model.non_trainable_variables
    parts = *parts, model.optimizer.variables, model.metrics_variables
    kept, *others = [[np.array(variable) for variable in part] for part in parts]
    kept = [np.full_like(value, 7.0) for value in kept]

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            keras_internals.put_back_jax_state(model, (kept, *others))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        linear_fit.fit(model, Fail())
    for variable, value in zip(model.trainable_variables, kept, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_layer_computes_in_the_dtype_of_its_policy():
    layer = keras.layers.Dense(2)
    before = vars(layer)[keras_internals.DTYPE_POLICY]
    assert before.compute_dtype == "float32"
    vars(layer)[keras_internals.DTYPE_POLICY] = keras.DTypePolicy("mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(X[:2]).dtype) == "bfloat16"
    vars(layer)[keras_internals.DTYPE_POLICY] = before
    assert keras.backend.standardize_dtype(layer(X[:2]).dtype) == "float32"


@pytest.mark.parametrize("scaled", [False, True])
def test_every_batch_counts_where_gradients_accumulate(scaled):
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    model = linear_fit.make_model(optimizer=optimizer)
    model.fit(X, Y, batch_size=4, verbose=0)
    assert int(ops.convert_to_numpy(keras_internals.num_batches(model.optimizer))) == 6
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 3


def test_the_learning_rate_is_what_was_given():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    assert keras_internals.learning_rate_of(keras.optimizers.SGD(schedule)) is schedule
    rate = keras_internals.learning_rate_of(keras.optimizers.SGD(0.25))
    assert float(ops.convert_to_numpy(rate)) == 0.25


def test_averages_belong_to_the_trainable_variables():
    model = linear_fit.make_model(optimizer=keras.optimizers.SGD(0.1, use_ema=True))
    model.optimizer.build(model.trainable_variables)
    pairs = keras_internals.moving_averages(model.optimizer)
    assert [variable for variable, _ in pairs] == model.trainable_variables
    assert all(variable.shape == average.shape for variable, average in pairs)
    assert keras_internals.moving_averages(keras.optimizers.SGD(0.1)) == []


@backends.tensorflow_only("only TensorFlow has strategies")
def test_the_cross_device_ops_of_a_strategy():
    import tensorflow as tf

    wanted = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], cross_device_ops=wanted)
    assert keras_internals.cross_device_ops(strategy) is wanted
    assert keras_internals.cross_device_ops(tf.distribute.get_strategy()) is None


@backends.tensorflow_only("JAX has no variables to assign to in a scope")
def test_a_value_is_read_and_assigned_whatever_scope_is_open():
    variable = keras.Variable([1.0])
    with keras.StatelessScope([(variable, ops.convert_to_tensor([5.0]))]):
        assert float(keras_internals.stored_value(variable)[0]) == 1.0
        keras_internals.assign_directly(variable, ops.convert_to_tensor([2.0]))
        assert float(variable.value[0]) == 5.0
    assert float(variable.value[0]) == 2.0


def test_a_scope_knows_the_one_around_it_and_fills_new_variables():
    with keras_internals.NestedScope() as outer:
        assert outer.outer is None
        with keras_internals.NestedScope() as inner:
            assert inner.outer is outer
    with keras_internals.NestedScope() as scope:
        scope.fill_new_variables(True)
        variable = keras.Variable(lambda shape, dtype: ops.full(shape, 3.0, dtype), shape=(2,))
    np.testing.assert_array_equal(variable, [3.0, 3.0])


def test_an_initial_epoch_on_the_model_is_where_fit_starts():
    class Later(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            keras_internals.start_fit_at(self.model, 2)

    assert linear_fit.fit(linear_fit.make_model(), Later(), epochs=3).epoch == [2]


def test_the_generator_of_train_on_batch_is_recognized():
    model, found = linear_fit.make_model(), []
    model.make_train_function()
    plain = model.train_function

    def noting(*arguments):
        found.append(keras_internals.is_of_one_batch(arguments[-1]))
        return plain(*arguments)

    model.train_function = noting
    model.train_on_batch(X, Y)
    model.fit(X, Y, verbose=0)
    assert found == [True, False]


def test_the_callback_list_is_the_caller_of_set_model():
    found = []

    class Look(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            frame = inspect.currentframe().f_back
            found.append(keras_internals.callback_list_around(self, frame))

    look = Look()
    linear_fit.fit(linear_fit.make_model(), look)
    assert isinstance(found[0], keras.callbacks.CallbackList) and look in found[0].callbacks
    look.set_model(None)
    assert found[-1] is None


@pytest.mark.parametrize("callback", keras_internals.REMEMBERED)
def test_callbacks_have_the_attributes_that_they_remember(callback):
    arguments = {"filepath": "x.keras"} if callback is keras.callbacks.ModelCheckpoint else {}
    if callback is not keras.callbacks.SwapEMAWeights:
        arguments["monitor"] = "loss"
    built = callback(**arguments)
    built.set_model(linear_fit.make_model(optimizer=keras.optimizers.SGD(0.1, use_ema=True)))
    built.on_train_begin()
    missing = [name for name in keras_internals.REMEMBERED[callback] if not hasattr(built, name)]
    assert missing == []


def test_seeds_and_clocks_have_names():
    generator = keras.random.SeedGenerator(1)
    assert keras_internals.is_seed(generator.state)
    optimizer = keras.optimizers.Adam(0.1)
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    clocks = [one for one in optimizer.variables if keras_internals.is_clock(one)]
    assert [one.name for one in clocks] == ["iteration", "learning_rate"]
    assert not keras_internals.is_seed(weight) and not keras_internals.is_clock(weight)


def _public_names():
    tree = ast.parse(inspect.getsource(keras_internals))
    names = {node.name for node in tree.body if hasattr(node, "name")}
    return names | {"DTYPE_POLICY", "REMEMBERED", "get_keras_mask", "set_keras_mask"}


def test_every_name_of_the_file_has_a_test():
    tree = ast.parse(pathlib.Path(__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert len(_public_names()) > 20
    assert sorted(_public_names() - used) == []


def _private_names(tree):
    """Yields the private attributes that a file reads from objects other than `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            yield node.attr, node.lineno
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if is_call and node.func.id in ("getattr", "setattr", "hasattr"):
            yield from (
                (part.value, node.lineno)
                for part in node.args[1:2]
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
        if isinstance(node, ast.ImportFrom) and ".src" in (node.module or ""):
            yield "_" + node.module, node.lineno


def test_no_other_file_touches_a_private_name_of_keras():
    files = {path: ast.parse(path.read_text()) for path in (ROOT / "keras_robust").rglob("*.py")}
    own = {"_replace", "_asdict", "_fields"}  # Of named tuples, which are public in Python.
    for tree in files.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in files.items()
        for name, line in _private_names(tree)
        if name.startswith("_") and not name.endswith("__") and name not in own
        if path.name != "keras_internals.py"
    ]
    assert len(files) > 200
    assert found == []
    assert backend.layers_of is keras_internals.layers_of
