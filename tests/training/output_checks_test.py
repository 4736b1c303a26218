import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.training import label_checks
from keras_robust.training import output_checks
from tests.support import forward_passes
from tests.support import refusals
from tests.support import requirements
from tests.support import tiers

X = forward_passes.X
SPARSE = {"from_logits": True}
TWO = {"a": np.array([0, 1, 2, 2]), "b": np.array([4, 0, 3, 1])}


def _check_each(y, outputs, loss):
    """Returns the message for the labels of a model with two outputs, or with a sequence."""
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
    return requirements.message(
        label_checks.check_labels, classifier, keras.ops.convert_to_tensor(X), y
    )


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
    # Losses other than cross-entropies accept any targets.
    assert _check_each([a - 9.0, b + 9.0], "list", ["mse", "mae"]) is None


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_logits_and_probabilities_of_several_outputs_are_not_mixed_up(name):
    a, b = TWO.values()
    y = [a, b] if name.startswith("sparse") else [np.eye(3)[a], np.eye(5)[b]]
    message = _check_each(y, "list", name)
    assert message.startswith("The loss takes probabilities, and the output 'a' gives other values")
    softmax = [keras.layers.Dense(3), keras.layers.Reshape((1, 3)), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((6,)), *softmax])
    for loss, is_refused in ((name, False), (_from_logits(name), True)):
        model.compile("sgd", loss)
        labels = keras.ops.convert_to_tensor(a[:, None] if name.startswith("s") else y[0][:, None])
        arguments = models.Classifier(model), keras.ops.convert_to_tensor(X), labels
        if is_refused:
            with pytest.raises(ValueError, match="The model ends in a softmax, but its loss was"):
                label_checks.check_labels(*arguments)
        else:
            assert requirements.message(label_checks.check_labels, *arguments) is None


def _from_logits(name):
    names = {"sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy}
    return names.get(name, keras.losses.CategoricalCrossentropy)(from_logits=True)


def test_labels_of_a_sequence():
    loss = keras.losses.SparseCategoricalCrossentropy(**SPARSE, ignore_class=-1)
    y = np.array([[0, 1], [2, 3], [-1, -1], [3, 0]])
    assert _check_each(y, "sequence", loss) is None
    message = _check_each(y, "sequence", keras.losses.SparseCategoricalCrossentropy(**SPARSE))
    assert message.endswith("labels from -1 to 3")
    assert "as the model has 4 classes" in message
    assert _check_each(np.where(y == 3, 4, y), "sequence", loss).endswith("labels from 0 to 4")


def test_outputs_that_were_misread():
    outputs = keras.ops.convert_to_tensor([[0.25, 0.75], [-3.0, 4.5]])
    check = output_checks.check_outputs
    assert output_checks.check_outputs(None, outputs) == []
    assert requirements.message(check, (False, "bad from {} to {}"), outputs) is None
    message = requirements.message(check, (True, "bad from {} to {}"), {"label": outputs})
    assert message == "bad from -3 to 4.5"
    values = requirements.values(check, (True, "bad from {} to {}"), {"label": outputs})
    assert values == [-3.0, 4.5]


def test_an_accuracy_that_takes_logits_for_probabilities_gives_a_warning():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    x, y = np.ones((8, 4), "float32"), np.arange(8) % 2

    def train(metric):
        model.compile("sgd", loss, metrics=[metric])
        model.fit(x, y, verbose=0, callbacks=[kr.AdvTrain(kr.Linf(0.1), warmup=0, attack="fgsm")])

    message = "metric 'accuracy' takes a logit above 0.5 for class 1"
    with refusals.assert_warned_once(message):
        train("accuracy")
    train(keras.metrics.BinaryAccuracy(threshold=0, name="accuracy"))
