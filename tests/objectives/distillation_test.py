import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import models
from keras_robust.objectives.distillation import Distillation
from tests.support import backends
from tests.support import forward_passes
from tests.support import gradients
from tests.support import numpy_reference
from tests.support import refusals
from tests.support import tiers

FEATURES = numpy_reference.FEATURES
CLASSES = (kr.objectives.ARD, kr.objectives.DefensiveDistillation, kr.objectives.RSLAD)
every_class = pytest.mark.parametrize("cls", CLASSES)


def _network(*tail, classes=3, features=FEATURES, seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(classes), *tail])


def _loss(objective, model=None, **arguments):
    return float(
        objective.loss(*forward_passes.forward_passes(model or forward_passes.model(), **arguments))
    )


def _fit(model, objective, **arguments):
    attack = kr.attacks.PGD(num_steps=1)
    adv_train = kr.AdvTrain(kr.Linf(0.1, None), attack=attack, objective=objective, warmup=0)
    model.fit(forward_passes.X, forward_passes.Y, verbose=0, callbacks=[adv_train], **arguments)


@every_class
@pytest.mark.parametrize("teacher", [None, "teacher.keras", lambda x: x, keras.layers.Dense(3)])
def test_a_teacher_is_a_model(cls, teacher):
    with pytest.raises(ValueError, match="`teacher` must be a keras.Model.*Received: teacher="):
        cls(teacher)


@every_class
def test_a_teacher_without_weights_is_refused(cls):
    objective = cls(keras.Sequential([keras.layers.Dense(3)], name="empty"))
    model = forward_passes.model()
    with refusals.assert_refused("no weights yet.*name=empty.*is not built", model):
        objective.check(model, None)


@every_class
def test_a_teacher_keeps_weights_of_its_own(cls):
    model = forward_passes.model()
    inner = keras.Sequential([keras.Input((FEATURES,)), model.layers[0], keras.layers.Dense(3)])
    for teacher in (model, keras.Sequential([model, keras.layers.Softmax()]), inner):
        with refusals.assert_refused("shares weights.*Received: the teacher 'sequential", model):
            cls(teacher).check(model, None)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    cls(copy).check(model, None)


def _compiled(model, loss):
    model.compile("sgd", loss)
    return model


def _two_outputs():
    x = keras.Input((FEATURES,))
    return keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])


@every_class
@tiers.parametrize(
    ("teacher", "said"),
    [
        (lambda: _network(classes=4), "a teacher with outputs of shape (None, 4) for"),
        (lambda: _network(classes=1), "a teacher with outputs of shape (None, 1) for"),
        (
            lambda: _compiled(_network(), "mse"),
            "a teacher with outputs of shape (None, 3) under the loss mean_squared_error for",
        ),
        (_two_outputs, "a teacher with outputs of shape (None, 3), (None, 3) for"),
        (
            lambda: _network(keras.layers.Reshape((3, 1))),
            "a teacher with outputs of shape (None, 3, 1)",
        ),
    ],
)
def test_a_teacher_of_something_else_is_refused(cls, teacher, said):
    student = "a model with outputs of shape (None, 3) under the loss sparse_categorical_crossentr"
    with refusals.assert_refused("the same number of classes.*Received: ") as caught:
        cls(teacher()).check(forward_passes.model(), None)
    assert said in str(caught.value) and student in str(caught.value)


@every_class
def test_a_model_that_is_no_classifier_is_refused(cls):
    model = _compiled(_network(seed=2), "mse")
    with refusals.assert_refused("a model with outputs of shape .* the loss mean_squared_", model):
        cls(_network()).check(model, None)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.exhaustive
@every_class
def test_a_subclassed_model_is_compared_in_the_first_step(cls):
    model = _compiled(Subclassed(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    message = r"\((None|4), 4\) for a model with outputs of shape \((None|4), 3\)"
    with refusals.assert_refused(message, model):
        _fit(model, cls(_network(classes=4)))
    teacher = Subclassed()
    teacher(forward_passes.X)
    _fit(model, cls(teacher))


@every_class
@tiers.parametrize("compiled", [True, False])
def test_a_teacher_may_end_in_a_softmax(cls, compiled):
    plain, ending = _network(), _network(keras.layers.Softmax())
    if compiled:
        ending.compile("sgd", "categorical_crossentropy")
    expected = _loss(cls(plain))
    assert _loss(cls(ending)) == pytest.approx(expected, rel=1e-5)


@every_class
def test_a_teacher_with_one_output_teaches_two_classes(cls):
    column = _compiled(
        _network(keras.layers.Activation("sigmoid"), classes=1), "binary_crossentropy"
    )
    kernel, bias = column.get_weights()
    pair = _network(classes=2)
    pair.set_weights([np.c_[0 * kernel, kernel], np.r_[0 * bias, bias]])
    student = _compiled(
        _network(classes=2, seed=5), keras.losses.SparseCategoricalCrossentropy(True)
    )
    cls(column).check(student, None)
    expected = _loss(cls(pair), student, y=np.array([0, 1, 1, 0]))
    found = _loss(cls(column), student, y=np.array([0, 1, 1, 0]))
    assert found == pytest.approx(expected, rel=1e-3)


def _busy_teacher():
    """A teacher with everything that changes in training mode, and with frozen layers."""
    keras.utils.set_random_seed(4)
    norm, frozen = keras.layers.BatchNormalization(), keras.layers.Dense(5, activation="tanh")
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            norm,
            frozen,
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2"),
        ]
    )
    norm.set_weights([np.full(FEATURES, v) for v in (1.5, 0.2, 0.4, 0.6)])
    frozen.trainable = False
    return model


@pytest.mark.exhaustive
@every_class
@tiers.parametrize("xla", [False, True])
def test_the_teacher_never_changes(cls, xla):
    teacher, model = _busy_teacher(), forward_passes.model()
    model.compile("sgd", model.loss, jit_compile=xla)
    before = teacher.get_weights()
    flags = [layer.trainable for layer in teacher.layers]
    started = model.get_weights()
    _fit(model, cls(teacher), batch_size=2, epochs=2)
    for one, other in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [layer.trainable for layer in teacher.layers] == flags == [True, False, True, True]
    assert np.any(model.get_weights()[0] != started[0])


@pytest.mark.exhaustive
@every_class
def test_the_teacher_runs_in_inference_mode_without_gradients_or_regularisers(cls):
    teacher = _busy_teacher()
    still = _network()
    # A linear map from the same inputs to the predictions of the busy teacher.
    inputs = np.c_[forward_passes.X, np.ones(4)]
    solved = np.linalg.lstsq(inputs, np.asarray(teacher(forward_passes.X)), rcond=None)[0]
    still.set_weights([solved[:-1], solved[-1]])

    student = forward_passes.model()

    def compute():
        return cls(teacher).loss(*forward_passes.forward_passes(student))

    loss, slopes = gradients.of(compute, teacher.trainable_variables)
    assert float(loss) == pytest.approx(_loss(cls(still)), rel=1e-4)
    if backends.IS_JAX:
        assert not any(np.any(g) for g in slopes)
    else:
        assert all(g is None for g in slopes)


@every_class
def test_the_teacher_sees_clean_examples_only(cls):
    asked = []
    objective = cls(_network())
    objective.teacher_logits = lambda classifier, x: asked.append(x) or keras.ops.zeros((4, 3))
    clean, adversarial = forward_passes.forward_passes(forward_passes.model())
    objective.loss(clean, adversarial)
    assert [one is clean.x for one in asked] == [True]


def test_logits_of_a_model_with_several_inputs_or_a_dict():
    class One(Distillation):
        pass

    teacher = _network()
    expected = np.asarray(teacher(forward_passes.X))
    x = keras.ops.convert_to_tensor(forward_passes.X)
    packed = models.Classifier(forward_passes.model(), lambda x: {"image": x})
    np.testing.assert_allclose(One(teacher).teacher_logits(packed, x), expected, rtol=1e-5)

    inputs = {
        name: keras.Input((size,), name=name) for name, size in (("image", FEATURES), ("other", 2))
    }
    merged = keras.layers.Concatenate()([inputs["image"], inputs["other"]])
    both = keras.Model(inputs, keras.layers.Dense(3)(merged))
    other = keras.ops.reshape(keras.ops.arange(8.0), (4, 2))
    packed = models.Classifier(both, lambda x: {"image": x, "other": other})
    expected = np.asarray(both({"image": x, "other": other}))
    np.testing.assert_allclose(One(both).teacher_logits(packed, x), expected, rtol=1e-5)


@every_class
def test_the_config_holds_the_architecture_and_not_the_weights(cls):
    objective = cls(_busy_teacher())
    saved = keras.saving.serialize_keras_object(objective)
    revived = keras.saving.deserialize_keras_object(saved)
    assert type(revived.teacher) is keras.Sequential
    shapes = [weight.shape for weight in revived.teacher.weights]
    assert shapes == [weight.shape for weight in objective.teacher.weights]
    assert np.any(revived.teacher.get_weights()[0] != objective.teacher.get_weights()[0])
    with pytest.warns(UserWarning, match="but not its weights.*Received: the teacher"):
        revived.check(forward_passes.model(), forward_passes.BALL)
    revived.teacher = objective.teacher
    revived.check(forward_passes.model(), forward_passes.BALL)


@pytest.mark.exhaustive
@every_class
def test_weight_perturbation_goes_around_it(cls):
    model = forward_passes.model()
    objective = kr.objectives.AWP(0.01, cls(_busy_teacher()))
    started = model.get_weights()
    _fit(model, objective)
    assert np.any(model.get_weights()[0] != started[0])
