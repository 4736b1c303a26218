"""Random cases for `benchmarks.fuzz`, and what may become of them."""

import collections
import os
import pathlib
import time
import traceback
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

import keras_robust as kr

_CLASSES, _COUNT, _BATCH = 3, 6, 4
_OURS = str(pathlib.Path(kr.__file__).parent)
_SCHEDULE = keras.optimizers.schedules.PolynomialDecay(0.0, 4, 0.1)

BODIES = ("dense", "image", "normalised", "dropout", "unbuilt", "subclass", "dict", "two")
HEADS = ("logits", "softmax", "logit", "sigmoid", "number", "two outputs", "sequence")
POLICIES = ("float32", "float32", "float32", "mixed_bfloat16", "mixed_float16", "float64")
LOSSES = {
    "sparse": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "sparse probabilities": lambda: "sparse_categorical_crossentropy",
    "categorical": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "categorical probabilities": lambda: "categorical_crossentropy",
    "binary": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "binary probabilities": lambda: "binary_crossentropy",
    "focal": lambda: keras.losses.CategoricalFocalCrossentropy(from_logits=True),
    "hinge": lambda: "hinge",
    "categorical hinge": lambda: "categorical_hinge",
    "mse": lambda: "mse",
    "kl": lambda: "kl_divergence",
    "margin": lambda: kr.losses.Margin(),
    "function": lambda: lambda y, outputs: keras.ops.mean(keras.ops.square(outputs), axis=-1),
    "sum": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
    "nothing": lambda: None,
}
LABELS = {
    "int64": lambda y: y,
    "uint8": lambda y: y.astype("uint8"),
    "float": lambda y: y.astype("float32"),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: np.eye(_CLASSES, dtype="float32")[y],
    "one-hot integers": lambda y: np.eye(_CLASSES, dtype="int32")[y],
    "soft": lambda y: (0.8 * np.eye(_CLASSES)[y] + 0.2 / _CLASSES).astype("float32"),
    "binary": lambda y: y % 2,
    "binary column": lambda y: (y % 2).astype("float32")[:, None],
    "booleans": lambda y: y > 0,
    "too high": lambda y: y + 1,
    "negative": lambda y: y - 1,
    "halves": lambda y: y + 0.5,
    "two": lambda y: [y, y],
    "sequence": lambda y: np.repeat(y[:, None], 5, axis=1),
    "nan": lambda y: np.full(len(y), np.nan, "float32"),
}
INPUTS = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype("float64"),
    "float16": lambda x: x.astype("float16"),
    "bytes": lambda x: (255 * x).astype("uint8"),
    "0-255": lambda x: 255 * x,
    "signed": lambda x: 2 * x - 1,
    "booleans": lambda x: x > 0.5,
    "integers": lambda x: (x > 0.5).astype("int64"),
    "nan": lambda x: np.where(x > 0.95, np.nan, x).astype("float32"),
    "narrow": lambda x: x[..., :-1],
    "deep": lambda x: x[..., None],
}
SOURCES = ("arrays", "dataset", "full batches", "generator", "PyDataset", "single examples")
WEIGHTS = ("none", "none", "ones", "zeros", "rows", "classes", "nan")
BALLS = {
    "linf": lambda: "linf",
    "Linf": lambda: kr.Linf(0.1),
    "text": lambda: kr.Linf("8/255"),
    "bytes": lambda: kr.Linf(8, bounds=(0, 255)),
    "free": lambda: kr.Linf(0.1, bounds=None),
    "signed": lambda: kr.Linf(0.1, bounds=(-1, 1)),
    "zero": lambda: kr.Linf(0.0),
    "schedule": lambda: kr.Linf(_SCHEDULE),
    "features": lambda: kr.Linf(np.linspace(0.0, 0.2, 6)),
    "L2": lambda: kr.L2(0.5),
    "L1": lambda: kr.L1(1.0, bounds=None),
    "L0": lambda: kr.threat_models.L0(2),
    "dict": lambda: {"a": "linf"},
    "list": lambda: [kr.L2(0.5), None],
    "joint": lambda: kr.threat_models.Joint(kr.L2(0.5, bounds=None), ["a", "b"]),
    "layer": lambda: kr.threat_models.AtLayer("hidden", kr.L2(0.5, bounds=None)),
    "wide": lambda: kr.Linf(2.0),
}
OBJECTIVES = {
    "adversarial": lambda: "adversarial",
    "default": lambda: kr.objectives.Adversarial(),
    "mixed": lambda: "mixed",
    "trades": lambda: "trades",
    "mart": lambda: "mart",
    "logit_pairing": lambda: "logit_pairing",
    "clean": lambda: "clean",
    "clean_logit_pairing": lambda: "clean_logit_pairing",
    "logit_squeezing": lambda: "logit_squeezing",
    "label_smoothing": lambda: "label_smoothing",
    "awp": lambda: kr.objectives.AWP(),
    "awp of trades": lambda: kr.objectives.AWP(objective="trades"),
    "free": lambda: kr.objectives.Free(num_replays=2),
    "grad_align": lambda: "grad_align",
    "ibp": lambda: "ibp",
    "input_gradient": lambda: "input_gradient",
    "jacobian": lambda: "jacobian",
    "kurakin": lambda: "kurakin",
    "mma": lambda: kr.objectives.MMA(bisection_steps=2),
    "pool": lambda: kr.objectives.AdversarialPool(pool_size=4),
    "vat": lambda: "vat",
    "worst_case_linear": lambda: "worst_case_linear",
    "noise": lambda: kr.objectives.GaussianNoise(0.1),
}
ATTACKS = {
    "default": lambda: None,
    "fgsm": lambda: "fgsm",
    "pgd": lambda: kr.attacks.PGD(num_steps=2),
    "compiled": lambda: kr.attacks.PGD(num_steps=2, loss="compiled"),
    "restarts": lambda: kr.attacks.PGD(num_steps=1, num_restarts=2, loss="margin"),
    "gaussian": lambda: kr.attacks.PGD(num_steps=2, random_start="gaussian", loss="kl"),
    "least likely": lambda: kr.attacks.BIM(num_steps=2, targeted="least_likely"),
    "momentum": lambda: kr.attacks.MomentumPGD(num_steps=2),
    "n_fgsm": lambda: kr.attacks.NFGSM(),
    "apgd": lambda: kr.attacks.APGD(num_steps=3),
    "fmn": lambda: kr.attacks.FMN(num_steps=3),
    "deepfool": lambda: kr.attacks.DeepFool(num_steps=2),
    "carlini_wagner": lambda: kr.attacks.CarliniWagner(num_steps=2, search_steps=1),
    "square": lambda: kr.attacks.Square(num_queries=4),
    "random_noise": lambda: kr.attacks.RandomNoise(num_samples=2),
    "spsa": lambda: kr.attacks.SPSA(num_steps=1, num_samples=4),
    "boundary": lambda: kr.attacks.Boundary(num_steps=3),
    "jsma": lambda: kr.attacks.JSMA(),
}
MODES = ("graph",) * 6 + ("eager", "several steps", "xla", "accumulation", "loss scale")

# The usual choice stands first, and comes often: with everything odd, all is refused at once.
_CHOICES = {
    "body": (BODIES, 0.5),
    "head": (HEADS, 0.6),
    "policy": (POLICIES, 0.5),
    "loss": (tuple(LOSSES), 0.5),
    "labels": (tuple(LABELS), 0.6),
    "inputs": (tuple(INPUTS), 0.7),
    "source": (SOURCES, 0.5),
    "weights": (WEIGHTS, 0.5),
    "ball": (tuple(BALLS), 0.5),
    "objective": (tuple(OBJECTIVES), 0.2),
    "attack": (tuple(ATTACKS), 0.3),
    "mode": (MODES, 0.5),
}


@st.composite
def cases(draw):
    """A strategy for cases, dicts of the names above."""
    case = {}
    for name, (choices, usual) in _CHOICES.items():
        is_usual = draw(st.floats(0.0, 1.0)) < usual
        case[name] = choices[0] if is_usual else draw(st.sampled_from(choices))
    # Combinations that belong together are found too seldom by chance.
    fitting = {
        "two outputs": {"labels": "two"},
        "sequence": {"labels": "sequence"},
        "logit": {"loss": "binary", "labels": "binary"},
        "sigmoid": {"loss": "binary probabilities", "labels": "binary"},
        "softmax": {"loss": "sparse probabilities"},
        "number": {"loss": "mse", "labels": "float"},
    }
    if draw(st.integers(0, 3)):
        case.update(fitting.get(case["head"], {}))
    if case["loss"].startswith(("categorical", "focal", "kl")) and draw(st.integers(0, 3)):
        case["labels"] = "one-hot"
    if case["body"] == "two" and draw(st.integers(0, 3)):
        case["ball"] = draw(st.sampled_from(["dict", "joint"]))
    return case


class _Subclass(keras.Model):
    """A model that Keras knows nothing of until it is called."""

    def __init__(self, units):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.head = keras.layers.Dense(units)

    def call(self, x):
        return self.head(self.flatten(x))


def make_model(case):
    """Returns the compiled model of a case."""
    units = 1 if case["head"] in ("logit", "sigmoid", "number") else _CLASSES
    activation = case["head"] if case["head"] in ("softmax", "sigmoid") else None
    middle = {
        "normalised": [keras.layers.BatchNormalization()],
        "dropout": [keras.layers.Dropout(0.3)],
        "image": [keras.layers.Conv2D(2, 3), keras.layers.Flatten()],
    }.get(case["body"], [])
    middle = [*middle, keras.layers.Dense(4, activation="tanh", name="hidden")]
    shape = (6, 6, 1) if case["body"] == "image" else (6,)
    if case["body"] == "subclass":
        return _Subclass(units)
    if case["body"] == "unbuilt":
        return keras.Sequential([*middle, keras.layers.Dense(units, activation=activation)])
    names = {"dict": ["a"], "two": ["a", "b"]}.get(case["body"], [])
    inputs = [keras.Input(shape, name=name) for name in names] or [keras.Input(shape)]
    h = inputs[0] if len(inputs) == 1 else keras.layers.Concatenate()(inputs)
    for layer in middle:
        h = layer(h)
    if case["head"] == "sequence":
        h = keras.layers.RepeatVector(5)(h)
    outputs = keras.layers.Dense(units, activation=activation)(h)
    if case["head"] == "two outputs":
        outputs = [outputs, keras.layers.Dense(units)(h)]
    given = dict(zip(names, inputs, strict=True)) if names else inputs[0]
    return keras.Model(given, outputs)


def compile_model(model, case):
    """Compiles a model as a case says."""
    accumulated = 2 if case["mode"] == "accumulation" else None
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulated)
    if case["mode"] == "loss scale":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = LOSSES[case["loss"]]()
    if case["head"] == "two outputs":
        loss = [loss, loss]
    model.compile(
        optimizer,
        loss,
        run_eagerly=case["mode"] == "eager",
        jit_compile=case["mode"] == "xla",
        steps_per_execution=2 if case["mode"] == "several steps" else 1,
    )


def make_data(case):
    """Returns inputs, labels and sample weights of a case, arrays or structures of them."""
    rng = np.random.default_rng(5)
    shape = (6, 6, 1) if case["body"] == "image" else (6,)
    x = INPUTS[case["inputs"]](rng.uniform(size=(_COUNT, *shape)).astype("float32"))
    y = LABELS[case["labels"]](np.array([0, 2, 1, 1, 0, 2]))
    names = {"dict": ["a"], "two": ["a", "b"]}.get(case["body"])
    weights = {
        "ones": np.ones(_COUNT, "float32"),
        "zeros": np.zeros(_COUNT, "float32"),
        "rows": np.ones((_COUNT, 2), "float32"),
        "nan": np.full(_COUNT, np.nan, "float32"),
    }.get(case["weights"])
    return ({name: x for name in names} if names else x), y, weights


class _Batches(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return -(-_COUNT // _BATCH)

    def __getitem__(self, index):
        rows = slice(index * _BATCH, (index + 1) * _BATCH)
        return keras.tree.map_structure(lambda array: array[rows], self.parts)


def _fit(model, case, callbacks):
    x, y, weights = make_data(case)
    parts = (x, tuple(y) if isinstance(y, list) else y)
    parts = parts if weights is None else (*parts, weights)
    arguments = {"verbose": 0, "callbacks": callbacks}
    source = case["source"]
    if source == "arrays":
        class_weight = {0: 1.0, 1: 2.0, 2: 0.5} if case["weights"] == "classes" else None
        arguments.update(batch_size=_BATCH, sample_weight=weights, class_weight=class_weight)
        return model.fit(x, y, **arguments)
    if source == "PyDataset":
        return model.fit(_Batches(parts), **arguments)
    if source == "generator":
        batches = _Batches(parts)
        endless = (batches[index % 2] for index in range(100))
        return model.fit(endless, steps_per_epoch=2, **arguments)
    data = tf.data.Dataset.from_tensor_slices(parts)
    if source != "single examples":
        data = data.batch(_BATCH, drop_remainder=source == "full batches")
    return model.fit(data, **arguments)


def run(case):
    """Trains and evaluates one case, and returns what became of it: a str.

    Raises:
        Exception: what is no refusal of ours.
    """
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(case["policy"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _run(case)
        except (TypeError, ValueError) as error:
            if "Received: " not in str(error) and _is_ours(error):
                raise
            return "refused by us" if _is_ours(error) else "refused by Keras"
        finally:
            keras.config.set_dtype_policy("float32")
            keras.backend.clear_session()


def _is_ours(error):
    """Whether our code was on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.startswith(_OURS) for frame in frames)


def _run(case):
    model = make_model(case)
    compile_model(model, case)
    callback = kr.AdvTrain(
        BALLS[case["ball"]](),
        attack=ATTACKS[case["attack"]](),
        objective=OBJECTIVES[case["objective"]](),
        warmup=1,
    )
    history = _fit(model, case, [callback]).history
    _require(hasattr(model.train_function, "plain") is False, "our train function was left behind")
    _require("loss" in history and len(history["loss"]) == 1, f"logs {history}")
    _require(np.isfinite(history["loss"][0]), f"loss {history['loss'][0]}")
    finite = all(np.isfinite(weight).all() for weight in model.get_weights())
    _require(finite, "weights that are not finite")
    shares = [history[name][0] for name in history if "accuracy" in name]
    _require(all(0.0 <= share <= 1.0 for share in shares), f"logs {history}")
    try:
        return f"trained, {_evaluate(model, case)}"
    except (TypeError, ValueError) as error:
        if "Received: " not in str(error):
            raise
        return "trained, evaluation refused"


def _evaluate(model, case):
    x, y, _ = make_data(case)
    attack = ATTACKS[case["attack"]]() or kr.attacks.PGD(num_steps=2)
    report = kr.evaluate(
        model, (x, y), BALLS[case["ball"]](), attack, num_examples=4, minimum_norm=None
    )
    _require(0.0 <= report.robust_accuracy <= report.clean_accuracy <= 1.0, str(report))
    return "evaluated"


def _require(condition, message):
    if not condition:
        raise AssertionError(message)


def search(seconds, seed, examples=10):
    """Tries cases for so long, and returns counts of what became of them, and the failures."""
    counts, failures, end = collections.Counter(), {}, time.monotonic() + seconds

    @hypothesis.given(cases())
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def attempt(case):
        if time.monotonic() > end:
            return
        try:
            counts[run(case)] += 1
        except Exception as error:
            counts["failed"] += 1
            where = [f for f in traceback.extract_tb(error.__traceback__) if _OURS in f.filename]
            place = f"{pathlib.Path(where[-1].filename).name}:{where[-1].lineno}" if where else "?"
            key = f"{type(error).__name__} at {place}: {str(error)[:200]}"
            if key not in failures:
                failures[key] = case
                print(f"{key}\n  {case}\n  {str(error)[-600:]}", flush=True)

    while time.monotonic() < end:
        hypothesis.seed(seed)(attempt)()
        seed += 1
    return counts, failures
