import keras
import numpy as np
import pytest

from keras_robust import backend
from tests.support import models
from tests.support import numpy_reference
from tests.support import streams


def test_the_model_runs_once_and_in_training_mode():
    recorder = models.Recorder(np.eye(6))
    classifier = backend.Classifier(recorder)
    stream = backend.Stream(classifier, keras.ops.convert_to_tensor(streams.X), None, None)
    assert not stream.was_used
    assert recorder.seen == []
    np.testing.assert_allclose(stream.outputs, streams.X, rtol=1e-6)
    np.testing.assert_allclose(stream.logits, streams.X, rtol=1e-6)
    assert stream.was_used
    assert recorder.seen == [True]


def test_logits_and_loss():
    clean, adversarial = streams.streams(streams.model(), sample_weight=streams.SAMPLE_WEIGHT)
    for stream, x in ((clean, streams.X), (adversarial, streams.X_ADV)):
        z = numpy_reference.logits(x.astype("float64"))
        np.testing.assert_allclose(stream.logits, z, rtol=1e-5, atol=1e-5)
        expected = streams.mean(streams.cross_entropy(z), streams.SAMPLE_WEIGHT)
        assert float(stream.loss) == pytest.approx(expected, rel=1e-5)


def test_loss_is_computed_once():
    model = streams.model()
    calls = []
    compute_loss = model.compute_loss
    model.compute_loss = lambda *arguments: calls.append(1) or compute_loss(*arguments)
    stream, _ = streams.streams(model)
    assert stream.loss is stream.loss
    assert calls == [1]


def test_loss_gets_what_a_custom_compute_loss_expects():
    class Custom(keras.Model):
        def call(self, inputs):
            return 2.0 * inputs["image"]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.sum(x["image"] + y_pred) + y + sample_weight

    classifier = backend.Classifier(Custom(), pack=lambda x: {"image": x})
    stream = backend.Stream(classifier, keras.ops.convert_to_tensor([[1.0, 3.0]]), 100.0, 1000.0)
    assert float(stream.loss) == 3 * 4.0 + 1100.0


def test_loss_after_the_outputs_of_another_stream_is_refused():
    clean, adversarial = streams.streams(streams.model())
    clean.outputs  # noqa: B018
    adversarial.outputs  # noqa: B018
    with pytest.raises(RuntimeError, match="must read `stream.loss` before the outputs of another"):
        clean.loss  # noqa: B018
    assert float(adversarial.loss) > 0.0


def test_loss_before_the_outputs_of_another_stream():
    clean, adversarial = streams.streams(streams.model())
    before = float(clean.loss)
    adversarial.outputs  # noqa: B018
    assert float(clean.loss) == before


@pytest.mark.parametrize("weight", [None, streams.SAMPLE_WEIGHT])
def test_mean_reduces_as_keras_losses_do(weight):
    stream, _ = streams.streams(streams.model(), sample_weight=weight)
    values = np.array([1.0, 10.0, 100.0, 1000.0], "float32")
    # 1270.5 is half of 1, twice 10, none of 100 and 1.25 times 1000.
    expected = 1111 / 4 if weight is None else 1270.5 / 4
    assert float(stream.mean(keras.ops.convert_to_tensor(values))) == pytest.approx(expected)
