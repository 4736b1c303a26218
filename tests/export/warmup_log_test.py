import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_robust as kr
from keras_robust.export import warmup_log

EXCHANGES = [
    warmup_log.WarmupRequest(
        "serving_default",
        {"x": np.arange(6, dtype="float32").reshape(2, 3), "n": np.array([7, 8])},
        {"label": np.array([1, 2]), "name": np.array([b"a", b"b"], object)},
    ),
    warmup_log.WarmupRequest("predict_bytes", {"image_bytes": np.array([b"\x00\xff"], object)}, {}),
]


def _fields(data):
    """Reads the wire format of protocol buffers: pairs of number and bytes, lengths only."""
    found = []
    while data:
        tag, size, place = data[0], 0, 1
        assert tag & 7 == 2
        for shift in range(0, 35, 7):
            size |= (data[place] & 127) << shift
            place += 1
            if data[place - 1] < 128:
                break
        found.append((tag >> 3, data[place : place + size]))
        data = data[place + size :]
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(3)])
    path = tmp_path_factory.mktemp("models") / "digits" / "1"
    return kr.export_saved_model(
        model, path, label_names=["a", "b", "c"], guard=kr.layers.InputGuard()
    )


def test_round_trip(tmp_path):
    warmup_log.write(tmp_path / "log", "digits", EXCHANGES)
    found = warmup_log.read(tmp_path / "log")
    assert [exchange.signature for exchange in found] == ["serving_default", "predict_bytes"]
    for exchange, expected in zip(found, EXCHANGES, strict=True):
        for have, want in (
            (exchange.inputs, expected.inputs),
            (exchange.outputs, expected.outputs),
        ):
            assert have.keys() == want.keys()
            for name, value in want.items():
                np.testing.assert_array_equal(have[name], value)
                assert have[name].dtype == value.dtype


def test_the_numbers_on_the_wire_are_those_of_tensorflow_serving(tmp_path):
    """`PredictionLog.predict_log` is 6, and so on, as in tensorflow_serving/apis."""
    warmup_log.write(tmp_path / "log", "digits", EXCHANGES[1:])
    (record,) = tf.data.TFRecordDataset(str(tmp_path / "log")).as_numpy_iterator()
    ((number, log),) = _fields(record)
    assert number == 6
    (request_number, request), (response_number, _) = _fields(log)
    assert (request_number, response_number) == (1, 2)
    (spec_number, spec), (inputs_number, entry) = _fields(request)
    assert (spec_number, inputs_number) == (1, 2)
    assert _fields(spec) == [(1, b"digits"), (3, b"predict_bytes")]
    (_, key), (value_number, value) = _fields(entry)
    assert (key, value_number) == (b"image_bytes", 2)
    tensor = type(tf.make_tensor_proto(0)).FromString(value)
    np.testing.assert_array_equal(tf.make_ndarray(tensor), [b"\x00\xff"])


def test_the_real_protocol_buffers_parse_it(tmp_path):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    warmup_log.write(tmp_path / "log", "digits", EXCHANGES)
    records = tf.data.TFRecordDataset(str(tmp_path / "log")).as_numpy_iterator()
    first = logs.PredictionLog.FromString(next(records)).predict_log
    assert first.request.model_spec.signature_name == "serving_default"
    np.testing.assert_array_equal(tf.make_ndarray(first.request.inputs["n"]), [7, 8])
    np.testing.assert_array_equal(tf.make_ndarray(first.response.outputs["label"]), [1, 2])


def test_replay(exported):
    found = warmup_log.replay(exported)
    assert found["largest_difference"] < 1e-6
    assert {**found, "largest_difference": 0.0} == {
        "requests": 4,
        "compared": 4,
        "signatures": ["logits", "serving_default"],
        "largest_difference": 0.0,
        "others_equal": True,
    }


@pytest.mark.parametrize("change", ["probabilities", "label", "missing"])
def test_replay_reports_differences(exported, tmp_path, change):
    folder = tmp_path / "1"
    shutil.copytree(exported, folder)
    warmup_requests = warmup_log.read(folder / warmup_log.PLACE)
    outputs = warmup_requests[0].outputs
    if change == "missing":
        del outputs["label"]
    else:
        outputs[change] = outputs[change] + outputs[change].dtype.type(1)
    warmup_log.write(folder / warmup_log.PLACE, "digits", warmup_requests)
    found = warmup_log.replay(folder)
    if change == "probabilities":
        np.testing.assert_allclose(found["largest_difference"], 1.0, atol=1e-5)
    else:
        assert not found["others_equal"]


def test_nan_is_a_difference(exported, tmp_path):
    folder = tmp_path / "1"
    shutil.copytree(exported, folder)
    warmup_requests = warmup_log.read(folder / warmup_log.PLACE)
    warmup_requests[0].outputs["probabilities"][0, 0] = np.nan
    warmup_log.write(folder / warmup_log.PLACE, "digits", warmup_requests)
    assert np.isnan(warmup_log.replay(folder)["largest_difference"])


@pytest.mark.exhaustive
def test_the_file_runs_where_keras_cannot_be_imported(exported):
    program = (
        "import runpy, sys; sys.modules['keras'] = sys.modules['keras_robust'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    file = pathlib.Path(warmup_log.__file__)
    command = [sys.executable, "-c", program, str(file), str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["requests"] == 4
