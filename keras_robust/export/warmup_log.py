"""Warmup file of TensorFlow Serving: requests, and the answers that Keras gives.

The file `assets.extra/tf_serving_warmup_requests` is a TFRecord of `PredictionLog`. A server reads
the requests. The answers are there to check a server or a SavedModel.

This module imports TensorFlow but not Keras: `verify` runs it by its path, in a process that cannot
import Keras, with the folder of a SavedModel as argument. The module then prints the result of
`replay` as JSON.
"""

import collections
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory

PLACE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
# Names of our own, because a pool refuses a second definition of those of TensorFlow Serving.
_FILE, _PACKAGE = "keras_robust/warmup_log.proto", "keras_robust.warmup_log"
_TENSOR = tf.make_tensor_proto(0.0).DESCRIPTOR
# Message -> field -> (number, type), with the numbers of tensorflow_serving/apis.
_MESSAGES = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "tensors")},
    "PredictResponse": {"outputs": (1, "tensors"), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest"), "response": (2, "PredictResponse")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}

WarmupRequest = collections.namedtuple("WarmupRequest", "signature inputs outputs")
WarmupRequest.__doc__ = "A request and its answer: the name of a signature, and dicts of arrays."


def write(path, model_name, warmup_requests):
    """Writes warmup requests to a file, of which TensorFlow Serving reads at most 1000."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in warmup_requests:
            record = _record_class()()
            log = record.predict_log
            for spec in (log.request.model_spec, log.response.model_spec):
                spec.name, spec.signature_name = model_name, request.signature
            for name, value in request.inputs.items():
                log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            for name, value in request.outputs.items():
                log.response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            # Entries of a map have no order, so sort them: equal requests make equal files.
            writer.write(record.SerializeToString(deterministic=True))


def read(path):
    """Returns the list of `WarmupRequest` in a file."""
    warmup_requests = []
    for bytes_of_record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = _record_class().FromString(bytes_of_record).predict_log
        inputs = {name: tf.make_ndarray(value) for name, value in log.request.inputs.items()}
        outputs = {name: tf.make_ndarray(value) for name, value in log.response.outputs.items()}
        warmup_requests.append(
            WarmupRequest(log.request.model_spec.signature_name, inputs, outputs)
        )
    return warmup_requests


def replay(folder):
    """Sends the warmup requests of a SavedModel to its own signatures.

    Returns:
        dict with `requests`, their number; `compared`, the number of requests with an answer, which
        random ones lack; `signatures`, the names of the signatures; `largest_difference`, the
        largest difference of any number from its answer; and `others_equal`, whether labels and
        texts are equal.
    """
    loaded = tf.saved_model.load(str(folder))
    warmup_requests = read(pathlib.Path(folder) / PLACE)
    differences, equal = [0.0], True
    for request in warmup_requests:
        inputs = {name: tf.constant(value) for name, value in request.inputs.items()}
        answers = loaded.signatures[request.signature](**inputs)
        if not request.outputs:
            # The answers to this request are random.
            continue
        equal &= answers.keys() == request.outputs.keys()
        for name in answers.keys() & request.outputs.keys():
            found, expected = answers[name].numpy(), request.outputs[name]
            if expected.dtype.kind == "f" and found.shape == expected.shape:
                # Python's `max` would ignore NaN; `np.max` returns it.
                differences.append(float(np.max(np.abs(found - expected), initial=0.0)))
            else:
                equal &= bool(np.array_equal(found, expected))
    return {
        "requests": len(warmup_requests),
        "compared": sum(bool(request.outputs) for request in warmup_requests),
        "signatures": sorted({request.signature for request in warmup_requests}),
        "largest_difference": float(np.max(differences)),
        "others_equal": equal,
    }


def _record_class():
    """Returns the message class `PredictionLog`, without the package tensorflow-serving-api."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_FILE)
    except KeyError:
        pool.Add(_file_descriptor())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.PredictionLog")
    return message_factory.GetMessageClass(descriptor)


def _file_descriptor():
    file = descriptor_pb2.FileDescriptorProto(
        name=_FILE, package=_PACKAGE, syntax="proto3", dependency=[_TENSOR.file.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if kind == "tensors":
                _add_map(message, field, number, f".{_PACKAGE}.{name}")
            else:
                _add_field(message, field, number, kind)
    return file


def _add_field(message, name, number, kind):
    field = message.field.add(name=name, number=number, label=1)
    if kind == "string":
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = kind if kind.startswith(".") else f".{_PACKAGE}.{kind}"
    return field


def _add_map(message, name, number, parent):
    """Adds a field `map<string, TensorProto>`, which is a repeated message of key and value."""
    entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, "string")
    _add_field(entry, "value", 2, f".{_TENSOR.full_name}")
    field = _add_field(message, name, number, f"{parent}.{entry.name}")
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


if __name__ == "__main__":
    sys.stdout.write(json.dumps(replay(sys.argv[1])) + "\n")
