"""A model whose `fit` and `predict` preprocess, as tasks of keras_hub do, is never judged raw."""

import keras
import numpy as np
import pytest

import keras_robust as kr
from tests.support import refusals

RAW = np.random.default_rng(0).uniform(0.0, 255.0, size=(32, 4)).astype("float32")
Y = (RAW[:, 0] > 127.5).astype("int64")


class Preprocessor:
    """Scales grey levels to [-1, 1]."""

    def __call__(self, x):
        return x / 127.5 - 1.0


class Task(keras.Sequential):
    """Preprocesses in `fit` and `predict`, but not in `call`."""

    def __init__(self, preprocessor):
        head = keras.layers.Dense(2, use_bias=False)
        super().__init__([keras.Input((4,)), head])
        weights = np.zeros((4, 2), "float32")
        weights[0] = [-1.0, 1.0]
        head.set_weights([weights])
        self.preprocessor = preprocessor
        self.compile(
            keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )

    def _prepared(self, x):
        return x if self.preprocessor is None else self.preprocessor(x)

    def fit(self, x, y=None, **arguments):
        return super().fit(self._prepared(x), y, **arguments)

    def predict(self, x, **arguments):
        return super().predict(self._prepared(x), **arguments)


class Own(keras.Model):
    """Applies its own preprocessor in every call."""

    def __init__(self):
        super().__init__()
        self.preprocessor = keras.layers.Rescaling(1 / 127.5, offset=-1.0)
        self.task = Task(None)

    def call(self, x):
        return self.task(self.preprocessor(x))


BALL = kr.Linf(8, bounds=(0, 255))
REFUSED = (
    r"has a preprocessor, which .* attacks, certificates and exports do not.* "
    r"`x = model.preprocessor\(x\)`, .*Received: Task with a Preprocessor"
)
FGSM = kr.attacks.FGSM()


@pytest.mark.parametrize(
    "judge",
    [
        lambda model: kr.evaluate(model, (RAW, Y), BALL, "fgsm"),
        lambda model: kr.sanity_check(model, (RAW, Y), BALL),
        lambda model: kr.certify(model, (RAW, Y), noise_stddev=10.0),
        lambda model: kr.certification.exact_linear(model, RAW, Y, BALL),
        lambda model: kr.layers.RandomizedSmoothing(model, 10.0),
        lambda model: kr.layers.FeatureSqueezingDetector(model, kr.layers.BitDepth(3)),
        lambda model: FGSM(model, RAW, Y, BALL),
        lambda model: kr.attacks.AutoAttack().run(model, RAW, Y, BALL),
        lambda model: model.fit(
            RAW, Y, verbose=0, callbacks=[kr.RobustValidation((RAW, Y), BALL, attack=FGSM)]
        ),
    ],
)
def test_a_task_with_a_preprocessor_is_refused_with_what_to_do(judge):
    model = Task(Preprocessor())
    with pytest.raises(ValueError, match=REFUSED):
        judge(model)
    # Nothing was trained before.
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize("data", [None, (RAW, Y)])
def test_a_task_with_a_preprocessor_is_not_exported(tmp_path, data):
    guard = kr.layers.InputGuard((0.0, 255.0))
    with refusals.assert_refused(REFUSED, folder=tmp_path):
        kr.export_saved_model(Task(Preprocessor()), tmp_path / "1", guard=guard, data=data)
    assert len(list(tmp_path.iterdir())) == 0


def test_the_advice_gives_the_right_numbers():
    model = Task(Preprocessor())
    x = model.preprocessor(RAW)
    model.preprocessor = None
    ball = kr.Linf(8 / 127.5, bounds=(-1, 1))
    validation = kr.RobustValidation((x, Y), ball, attack=FGSM)
    logs = model.fit(
        x, Y, verbose=0, callbacks=[kr.AdvTrain(ball, attack=FGSM, warmup=0), validation]
    )
    expected = np.mean(np.abs(RAW[:, 0] - 127.5) > 8)
    assert logs.history["val_adv_accuracy"] == logs.history["adv_accuracy"] == [expected]
    report = kr.evaluate(model, (x, Y), ball, "fgsm", minimum_norm=None)
    assert (report.clean_accuracy, report.robust_accuracy) == (1.0, expected)


def test_training_on_what_was_rescaled_warns_of_the_units():
    model = Task(lambda x: x / 255.0)
    message = "larger than the range of all values in the first batch"
    with refusals.assert_warned_once(message):
        model.fit(RAW, Y, verbose=0, callbacks=[kr.AdvTrain(BALL, attack=FGSM, warmup=0)])


def test_a_preprocessor_in_the_call_is_a_part_of_the_model():
    model = Own()
    report = kr.evaluate(model, (RAW, Y), BALL, "fgsm", minimum_norm=None)
    assert report.clean_accuracy == 1.0
    assert report.robust_accuracy == np.mean(np.abs(RAW[:, 0] - 127.5) > 8)
