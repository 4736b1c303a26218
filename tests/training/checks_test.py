import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.training import checks
from tests.support import streams
from tests.support import tiers

X = streams.X
BALL = kr.threat_models.Linf(0.1)


def _message(check, *arguments, **keywords):
    """What is said of the first requirement that does not hold, or `None`."""
    for one in check(*arguments, **keywords):
        if not bool(one.condition):
            return one.template.format(*(f"{float(value):g}" for value in one.values))
    return None


def _with(value):
    x = X.copy()
    x[1, 2] = value
    return keras.ops.convert_to_tensor(x)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.0009, 1.0009])
def test_inputs_may_round_off_the_bounds(value):
    assert _message(checks.check_inputs, _with(value), BALL) is None


@pytest.mark.parametrize("value", [-0.002, 1.5])
def test_inputs_outside_of_the_bounds(value):
    x = _with(value)
    message = _message(checks.check_inputs, x, BALL)
    assert message.startswith("Inputs must lie in the bounds of the threat model. Rescale them")
    range_text = message.split("Received: a batch with values from ")[1].split(" under bounds=")
    assert range_text[1] == "(0.0, 1.0)"
    found = [float(number) for number in range_text[0].split(" to ")]
    np.testing.assert_allclose(found, [np.min(x), np.max(x)], rtol=1e-5)


def test_inputs_without_bounds_need_only_be_finite():
    free = kr.threat_models.Linf(0.1, None)
    assert _message(checks.check_inputs, _with(-50.0), free) is None
    message = _message(checks.check_inputs, _with(np.nan), free)
    assert message.startswith("Inputs must be finite. Clean the data, or drop the broken examples.")


def test_broken_values_are_counted_and_not_called_out_of_bounds():
    x = X.copy()
    x[0, 0], x[2, 3], x[3, 5] = np.nan, np.inf, -np.inf
    message = _message(checks.check_inputs, keras.ops.convert_to_tensor(x), BALL)
    assert message.endswith("Received: a batch with 3 NaN or infinite values")


def _check_labels(y, head=None, loss=None, **arguments):
    head = head or keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((6,)), head])
    model.compile("sgd", loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier, y = models.Classifier(model), keras.ops.convert_to_tensor(y)
    return _message(checks.check_labels, classifier, keras.ops.convert_to_tensor(X), y, **arguments)


@pytest.mark.parametrize("y", [[0, 1, 2, 2], [[0], [1], [2], [2]], [0.0, 1.0, 2.0, 2.0]])
def test_labels_that_are_classes(y):
    assert _check_labels(y) is None


@pytest.mark.parametrize(
    "y,received", [([0, 1, 2, 3], "from 0 to 3"), ([[1], [-2], [1], [1]], "from -2 to 1")]
)
def test_labels_that_are_no_class(y, received):
    message = _check_labels(y)
    assert message.startswith("Labels must be class indices from 0 to 2, as the model has 3 class")
    assert message.endswith(f"Received: a batch with labels {received}")


def test_unlabelled_examples_are_let_through_where_they_are_wanted():
    y = [0, -1, -1, 2]
    assert _check_labels(y).endswith("labels from -1 to 2")
    assert _check_labels(y, unlabelled=True) is None
    assert _check_labels([0, -2, 1, 2], unlabelled=True).endswith("labels from -2 to 2")


def test_unlabelled_examples_may_need_a_loss_that_leaves_them_out():
    y = [0, -1, -1, 2]
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    assert _check_labels(y, unlabelled="if_ignored", loss=ignoring) is None
    message = _check_labels(y, unlabelled="if_ignored")
    assert "need a loss that leaves them out: SparseCategoricalCrossentropy(from_log" in message
    assert message.endswith("labels from -1 to 2")
    assert _check_labels([0, 1, 1, 2], unlabelled="if_ignored") is None


SPARSE = {"from_logits": True}
TWO = {"a": np.array([0, 1, 2, 2]), "b": np.array([4, 0, 3, 1])}


def _check_each(y, outputs, loss):
    """What is said of the labels of a model with two outputs of 3 and 5 classes, or a sequence."""
    inputs = keras.Input((6,))
    heads = {"a": keras.layers.Dense(3, name="a"), "b": keras.layers.Dense(5, name="b")}
    heads = {name: head(inputs) for name, head in heads.items()}
    large = {"y": keras.layers.Dense(256)(inputs), "x": keras.layers.Dense(2)(inputs)}
    sequence = keras.layers.Reshape((2, 4))(keras.layers.Dense(8)(inputs))
    forms = {
        "dict": heads,
        "other names": large,
        "list": list(heads.values()),
        "reverse": [heads["b"], heads["a"]],
    }
    model = keras.Model(inputs, {**forms, "sequence": sequence}[outputs])
    model.compile("sgd", loss)
    y = keras.tree.map_structure(keras.ops.convert_to_tensor, y)
    classifier = models.Classifier(model)
    return _message(checks.check_labels, classifier, keras.ops.convert_to_tensor(X), y)


@tiers.parametrize(
    "outputs,names",
    [("dict", {"a", "b"}), ("list", {"a", "b"}), ("reverse", {"a", "b"}), ("list", {"b"})],
)
@tiers.parametrize("column", [False, True])
def test_labels_of_several_outputs(outputs, names, column):
    loss = {name: keras.losses.SparseCategoricalCrossentropy(**SPARSE) for name in names}
    y = {name: labels[:, None] if column else labels for name, labels in TWO.items()}
    y = {name: y[name] for name in names}
    assert _check_each(y, outputs, loss) is None
    for name in names:
        high = TWO[name].max() + 1
        assert _check_each({**y, name: y[name] + 1}, outputs, loss) == (
            f"Labels must be class indices from 0 to {high - 1}, as the output {name!r} has {high} "
            f"classes. Received: a batch with labels from 1 to {high}"
        )


def test_labels_of_several_outputs_in_a_list_under_one_loss():
    loss = keras.losses.SparseCategoricalCrossentropy(**SPARSE)
    a, b = TWO.values()
    assert _check_each([a, b], "list", [loss, loss]) is None
    assert "the output 'a' has" in _check_each([a + 1, b], "list", [loss, loss])
    assert "the output 'b' has" in _check_each([a, b + 1], "list", loss)
    c, d = np.array([255, 0, 7, 8], "uint8"), np.array([True, False, True, True])
    assert _check_each({"y": c, "x": d}, "other names", loss) is None
    assert "the output 'x' has 2" in _check_each({"y": c, "x": c}, "other names", loss)
    assert "the output 'x' has 2" in _check_each({"y": c, "x": c}, "other names", [loss, "mse"])
    assert _check_each({"y": c, "x": c}, "other names", {"x": ["mse", loss], "y": loss}) is None
    # Other losses take other targets.
    assert _check_each([a - 9.0, b + 9.0], "list", ["mse", "mae"]) is None


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_logits_and_probabilities_of_several_outputs_are_not_mixed_up(name):
    a, b = TWO.values()
    y = [a, b] if name.startswith("sparse") else [np.eye(3)[a], np.eye(5)[b]]
    message = _check_each(y, "list", name)
    assert message.startswith("The loss takes probabilities, and the output 'a' gives something el")
    softmax = [keras.layers.Dense(3), keras.layers.Reshape((1, 3)), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((6,)), *softmax])
    for loss, is_refused in ((name, False), (_from_logits(name), True)):
        model.compile("sgd", loss)
        labels = keras.ops.convert_to_tensor(a[:, None] if name.startswith("s") else y[0][:, None])
        arguments = models.Classifier(model), keras.ops.convert_to_tensor(X), labels
        if is_refused:
            with pytest.raises(ValueError, match="The model ends in a softmax, but its loss was"):
                checks.check_labels(*arguments)
        else:
            assert _message(checks.check_labels, *arguments) is None


def _from_logits(name):
    names = {"sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy}
    return names.get(name, keras.losses.CategoricalCrossentropy)(from_logits=True)


def test_what_a_loss_ignores_is_left_out_of_a_plain_classification():
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    message = _check_labels([0, -1, 2, 1], loss=ignoring)
    assert "What the loss ignores cannot be attacked: leave it out" in message


def test_labels_of_a_sequence():
    loss = keras.losses.SparseCategoricalCrossentropy(**SPARSE, ignore_class=-1)
    y = np.array([[0, 1], [2, 3], [-1, -1], [3, 0]])
    assert _check_each(y, "sequence", loss) is None
    message = _check_each(y, "sequence", keras.losses.SparseCategoricalCrossentropy(**SPARSE))
    assert message.endswith("labels from -1 to 3")
    assert "as the model has 4 classes" in message
    assert _check_each(np.where(y == 3, 4, y), "sequence", loss).endswith("labels from 0 to 4")


def test_one_hot_rows_need_the_loss_for_them():
    rows = np.eye(3, dtype="float32")[streams.Y]
    with pytest.raises(ValueError, match=r"labels are one-hot rows.*Received: .* shape \(4, 3\)"):
        _check_labels(rows)
    assert _check_labels(rows, loss=keras.losses.CategoricalCrossentropy(from_logits=True)) is None


def test_binary_labels():
    head = keras.layers.Dense(1, activation="sigmoid")
    assert _check_labels([[0.0], [1.0], [1.0], [0.0]], head, "binary_crossentropy") is None
    message = _check_labels([0.0, 1.0, 2.0, 0.0], head, "binary_crossentropy")
    assert message.startswith("Labels must be class indices from 0 to 1, as the model has 2")


def test_targets_of_a_regression_may_be_anything():
    assert _check_labels(np.full((4, 3), -7.5, "float32"), loss="mse") is None


def test_outputs_that_were_misread():
    outputs = keras.ops.convert_to_tensor([[0.25, 0.75], [-3.0, 4.5]])
    check = checks.check_outputs
    assert checks.check_outputs(None, outputs) == []
    assert _message(check, (False, "bad from {} to {}"), outputs) is None
    message = _message(check, (True, "bad from {} to {}"), {"label": outputs})
    assert message == "bad from -3 to 4.5"


def test_an_accuracy_that_takes_logits_for_probabilities_is_told():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    x, y = np.ones((8, 4), "float32"), np.arange(8) % 2

    def train(metric):
        model.compile("sgd", loss, metrics=[metric])
        model.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), warmup=0, attack="fgsm")])

    with pytest.warns(UserWarning, match="metric 'accuracy' takes a logit above 0.5 for class 1"):
        train("accuracy")
    train(keras.metrics.BinaryAccuracy(threshold=0, name="accuracy"))
