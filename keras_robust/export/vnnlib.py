"""Robustness properties for complete verifiers, in the formats of VNN-COMP: ONNX and VNN-LIB."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_robust import backend
from keras_robust import models
from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.data import check_examples
from keras_robust.calls import with_argument_advice
from keras_robust.certification.model_checks import check_precision
from keras_robust.evaluation.validation import check_labels
from keras_robust.export.atomic_directory import atomic_directory
from keras_robust.export.guards import guards_within
from keras_robust.export.portable import check_format
from keras_robust.export.portable import check_same
from keras_robust.export.portable import run_onnx
from keras_robust.export.portable import single_input
from keras_robust.export.portable import write_file
from keras_robust.export.prediction_function import smoothings
from keras_robust.threat_models.decimal_radius import decimal_radius

_BATCH_SIZE = 256
_NUM_CHECKED = 8  # Examples for which the file must give the logits of Keras.


@with_argument_advice
def export_vnnlib(model, x, y, threat_model, path, *, timeout=300):
    """Writes a robustness property for each example, for the complete verifiers of VNN-COMP.

    A complete verifier, such as alpha-beta-CROWN, Marabou or nnenum, proves that an example has no
    adversarial example in the threat model, or finds one. For an example `x` with label `y` and
    logits `f`, a file asks whether an unsafe point exists:

    `exists x' : max(x - epsilon, low) <= x' <= min(x + epsilon, high), f_j(x') >= f_y(x')`

    for some class `j != y`. The answer `unsat` proves that the example is robust. The answer `sat`
    comes with a counterexample: a point of another class, or one where the logits of two classes
    are equal. An example that the model gets wrong is `sat`, so the share of `unsat` is the
    verified accuracy.

    The folder holds:

    - `onnx/model.onnx`: the network without any guard. It maps a batch of one input, float32 with
      the axes of Keras, to `logits`.
    - `vnnlib/example_0.vnnlib`, and so on in the order of the examples: VNN-LIB 1.0 with `X_0`,
      `X_1`, ... for the input flattened in row-major order, and `Y_0`, ... for the logits. A binary
      model with a single output has the one logit `Y_0`, which is unsafe at `Y_0 <= 0` for the
      label 1, and at `Y_0 >= 0` for the label 0.
    - `instances.csv`: lines `onnx,vnnlib,timeout` with paths relative to the folder.

    The box is computed in float64, from inputs and bounds in float32 and from `epsilon` as it was
    written, so each end is rounded once, to the nearest float64. It is written as the shortest
    decimal that reads back as this float64. A verifier that computes in float32 rounds it once
    more, by less than what `threat_model.contains` tolerates.

    Args:
        model: built `keras.Model` of float32 layers with one input and one classification output.
        x: inputs `(num_examples, ...)`, within the bounds.
        y: labels: class indices `(num_examples,)`, or rows with one entry for each class.
        threat_model: `threat_models.Linf`, with numbers or arrays as `epsilon` and `bounds`.
        path: str, the folder to make. It must not exist.
        timeout: int >= 1, seconds that a verifier may spend on an example. Defaults to `300`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: if `path` exists.
        ImportError: if a package is missing; the extra `onnx` installs it.
        ValueError: for other threat models, whose sets are no boxes; for a scheduled `epsilon`; for
            examples outside the bounds; for labels that are not classes; for a model with several
            inputs, with an input or a layer that is not float32, with an `InputGuard` or a
            `RandomizedSmoothing`, or that returns probabilities whose logits are not known; on
            other backends than TensorFlow; and if ONNX Runtime computes other logits than Keras
            for one of the first 8 examples.

    References:
        - [VNN-LIB](https://www.vnnlib.org), the standard of the files
        - [Brix et al., 2023](https://arxiv.org/abs/2301.05815), the competition VNN-COMP
    """
    check_format("onnx")
    check_counts(timeout=timeout)
    threat_model = _check_threat_model(threat_models.get(threat_model))
    inputs = single_input(model, "onnx")
    _check_model(model, *inputs.specs)
    x, y = check_examples(x, y, threat_model)
    (x,) = inputs.unpack(x)
    labels = check_labels(y, models.predict_clean(model, x, _BATCH_SIZE))
    low, high = _boxes(x, threat_model)
    path = pathlib.Path(path).absolute()
    with atomic_directory(path) as partial:
        (partial / "onnx").mkdir()
        num_outputs = _write_network(model, partial / "onnx" / "model.onnx", x, *inputs.specs)
        (partial / "vnnlib").mkdir()
        lines = []
        for row, label in enumerate(labels):
            name = f"vnnlib/example_{row}.vnnlib"
            text = _property(low[row].ravel(), high[row].ravel(), label, num_outputs)
            (partial / name).write_text(f"; Example {row}, label {label}\n{text}", encoding="utf-8")
            lines.append(f"onnx/model.onnx,{name},{timeout}\n")
        (partial / "instances.csv").write_text("".join(lines), encoding="utf-8")
    return path


def _check_threat_model(threat_model):
    """Returns the threat model, or raises ValueError unless its feasible sets are boxes."""
    if not isinstance(threat_model, threat_models.Linf):
        raise ValueError(
            "A VNN-LIB property describes a box, the feasible set of kr.Linf. For L1 and L2 pass "
            "kr.Linf with the same epsilon and bounds, whose box contains the ball: `unsat` is "
            "then a proof for the ball too, but a counterexample may lie outside of it. "
            f"kr.certify has proofs for L2. Received: {threat_model!r}"
        )
    return threat_model


def _check_model(model, spec):
    """Raises ValueError for a model that a verifier cannot take as a function of real numbers."""
    if spec.dtype != tf.float32:
        raise ValueError(
            "A verifier searches over real numbers: build the model on an input of dtype float32. "
            f"Received: the input {spec.name!r} of dtype {spec.dtype.name}"
        )
    check_precision(model)
    if smoothings(model):
        raise ValueError(
            "A verifier needs logits, and a RandomizedSmoothing returns votes over random copies: "
            'pass the model inside of it, or use kr.certify(..., "smoothing"). '
            f"Received: the layer {smoothings(model)[0].name!r}"
        )
    for guard in guards_within(model):
        raise ValueError(
            "Verifiers do not know the operations of an InputGuard, and the box of a property lies "
            "within the bounds anyway: build the model from its other layers, such as "
            "keras.Sequential([keras.Input(shape), *model.layers[1:]]). "
            f"Received: the layer {guard.name!r} of {model.name!r}"
        )


class _Logits(keras.Model):
    """Model that returns the logits of a classifier; a binary model may have a single one."""

    def __init__(self, model):
        super().__init__(name="logits")
        self.model = model
        self._classifier = models.Classifier(model)

    def call(self, x):
        outputs = models.single(self._classifier(x))
        logits = backend.keras_logits(outputs)
        return {"logits": outputs if logits is None else logits}

    def check_logits(self, x):
        """Raises ValueError if the outputs for `x` are probabilities whose logits are not known."""
        outputs = models.single(self._classifier(x))
        are_probabilities = self._classifier.from_logits is False or np.all(
            models.rows_of_probabilities(outputs)
        )
        if backend.keras_logits(outputs) is None and are_probabilities:
            raise ValueError(
                "Verifiers take logits, and the model returns probabilities that no Keras softmax "
                "computed: end the model with keras.layers.Softmax (one output: a sigmoid) and no "
                "layer after it, or return the logits. Received: outputs from "
                f"{np.min(outputs):g} to {np.max(outputs):g} of {self.model.name!r}"
            )


def _write_network(model, file, x, spec):
    """Writes the network with a batch size of 1, and returns its number of outputs."""
    network, x = _Logits(model), x[:_NUM_CHECKED]
    network.check_logits(tf.constant(x))
    expected = np.asarray(network(tf.constant(x))["logits"])
    # Verifiers need every length, also those that the model leaves open.
    write_file(network, file, "onnx", tf.TensorSpec((1, *x.shape[1:]), spec.dtype, spec.name))
    found = [run_onnx(file, x[row : row + 1])["logits"] for row in range(len(x))]
    check_same("onnx", np.concatenate(found), expected)
    return expected.shape[-1]


def _boxes(x, threat_model):
    """Returns the lower and the upper ends of the feasible sets, float64 arrays like `x`."""
    radius, x = threat_model.epsilon, x.astype("float64")
    # An array, and a schedule's value at a step, are float32.
    radius = radius if isinstance(radius, float) else decimal_radius(threat_model)
    low, high = threat_model.bounds or (-np.inf, np.inf)
    return np.maximum(x - radius, low), np.minimum(x + radius, high)


def _property(low, high, label, num_outputs):
    """Returns the text of a property: the box, and where the label does not win."""
    variables = [f"X_{place}" for place in range(len(low))]
    outputs = [f"Y_{place}" for place in range(num_outputs)]
    lines = [f"(declare-const {name} Real)" for name in (*variables, *outputs)]
    for name, *ends in zip(variables, low, high, strict=True):
        # Readers of decimals may not know exponents such as 1e-05.
        least, most = (np.format_float_positional(end, trim="0") for end in ends)
        lines += [f"(assert (>= {name} {least}))", f"(assert (<= {name} {most}))"]
    return "\n".join([*lines, *_unsafe_outputs(label, outputs)]) + "\n"


def _unsafe_outputs(label, outputs):
    """Returns the lines for the logits with which the label does not win."""
    if len(outputs) == 1:
        return [f"(assert ({'<=' if label else '>='} Y_0 0.0))"]
    others = [name for place, name in enumerate(outputs) if place != label]
    return ["(assert (or", *(f"    (and (>= {name} Y_{label}))" for name in others), "))"]
