"""No point within a certified radius has another class, whatever the network."""

import os

import numpy as np
from keras import ops

import keras_robust as kr
from keras_robust import backend
from keras_robust import models
from tests.support import random_networks
from tests.support import tiers

# More of them, for a search that takes minutes: CERTIFICATE_SEEDS=1000 CERTIFICATE_FIRST=8.
_FIRST = int(os.environ.get("CERTIFICATE_FIRST", "0"))
_SEEDS = range(_FIRST, _FIRST + int(os.environ.get("CERTIFICATE_SEEDS", "8")))
_NUM_STEPS = 6
_LOSSES = (None, False, True)
_NORMS = ("Linf", "L2", "L1")
_KINDS = (*_NORMS, "optimized")


def certificates(rng, kinds):
    bounds = (0.0, 1.0) if rng.uniform() < 0.5 else None
    interval = kr.certification.Interval(bounds, max_radius=1.0, num_steps=12)
    yield from ((interval, bounds), (kr.certification.Lipschitz(), None))
    box = {"bounds": bounds, "max_radius": 1.0, "num_steps": 3}
    counts = {"num_iterations": 2, "inner_iterations": 1}
    for kind in kinds:
        if kind == "optimized":
            yield kr.certification.AlphaCrown(str(rng.choice(_NORMS)), **box, **counts), bounds
        else:
            yield kr.certification.Crown(kind, **box), bounds


def certified(method, model, x):
    """Returns what is certified, or `None` where this is refused in words of ours."""
    try:
        found = method.certify(model, x)
    except ValueError as error:
        if "Received: " not in str(error):
            raise
        return None
    return found


def decisions(model, x):
    """The classes as whoever looks at the outputs of the model sees them, and the logits."""
    outputs = np.asarray(model(x))
    classifier = models.Classifier(model)
    x = ops.convert_to_tensor(x)
    logits = np.asarray(classifier.logits(x), "float64")
    if outputs.shape[-1] > 1:
        return np.argmax(outputs, axis=-1), logits
    has_logits = backend.keras_logits(classifier(x)) is None and classifier.from_logits is not False
    is_sigmoid = "sigmoid" in str(getattr(model.layers[-1], "activation", None))
    return (outputs[:, 0] > (0.0 if has_logits and not is_sigmoid else 0.5)) * 1, logits


def lengths(delta, norm):
    """Returns the norms of changes, `(n, 1, 1, 1)`."""
    sizes = np.abs(delta).reshape(len(delta), -1)
    found = {
        "L1": np.sum(sizes, axis=-1),
        "L2": np.sqrt(np.sum(sizes**2, axis=-1)),
        "Linf": np.max(sizes, axis=-1),
    }
    return np.maximum(found[norm], 1e-30).reshape(-1, 1, 1, 1)


def within(x, centre, radii, norm, bounds):
    """Returns points of the balls, in float64, and of the box: the nearest ones, but in L1."""
    delta = x - centre
    radii = radii.reshape(-1, 1, 1, 1)
    if norm == "Linf":
        delta = np.clip(delta, -radii, radii)
    else:
        delta = delta * np.minimum(1.0, radii / lengths(delta, norm))
    moved = centre + delta
    return moved if bounds is None else np.clip(moved, *bounds)


def steepest(gradient, norm):
    """Returns the steps of length 1 that rise most, and in L1 some of nearly the same rise."""
    if norm == "Linf":
        return np.sign(gradient)
    power = {"L1": 5, "L2": 1}[norm]
    direction = (gradient / lengths(gradient, "Linf")) ** power
    return direction / lengths(direction, norm)


def margins_and_gradient(model, x, labels, others):
    classifier = models.Classifier(model)

    def function(x):
        logits = classifier.logits(x)
        wrong, right = (
            ops.sum(ops.one_hot(which, logits.shape[-1]) * logits, axis=-1)
            for which in (others, labels)
        )
        return wrong - right, None

    (margins, _), gradient = backend.value_and_input_gradient(function, ops.convert_to_tensor(x))
    return np.asarray(margins, "float64"), np.asarray(gradient, "float64")


def flips(model, x, found, norm, bounds):
    """Returns by how much gradient steps towards every class change a decision, relatively."""
    num_classes = max(2, model.output_shape[-1])
    rows, others = np.nonzero(np.eye(num_classes)[found.predictions] == 0)
    centre, labels = x[rows].astype("float64"), found.predictions[rows]
    radii = 0.999 * np.minimum(found.radii[rows], 10.0)
    point, worst = centre, 0.0
    for _ in range(_NUM_STEPS):
        margins, gradient = margins_and_gradient(model, point.astype("float32"), labels, others)
        direction = steepest(gradient, norm)
        point = within(point + radii.reshape(-1, 1, 1, 1) * direction, centre, radii, norm, bounds)
        classes, logits = decisions(model, point.astype("float32"))
        gaps = logits[np.arange(len(rows)), classes] - logits[np.arange(len(rows)), labels]
        # Only what is above the rounding of float32.
        large = np.abs(gaps) / np.maximum(np.max(np.abs(logits), axis=-1), 1e-30)
        worst = max(worst, np.max(np.where((classes != labels) & (radii > 0.0), large, 0.0)))
    return worst


def _assert_sound(rng, head, depth, from_logits, kinds):
    """Returns the largest radius, or 0 where all was refused."""
    try:
        model, names = random_networks.random_network(rng, head, depth, from_logits)
    except ValueError:
        # The image became too small for a layer.
        return 0.0
    x, largest = rng.uniform(size=(4, *random_networks.IMAGE)).astype("float32"), 0.0
    for method, bounds in certificates(rng, kinds):
        found = certified(method, model, x)
        if found is not None:
            change = flips(model, x, found, method.norm, bounds)
            assert change < 1e-4, (type(method).__name__, names, head, from_logits, change)
            largest = max(largest, found.radii.max())
    return largest


@tiers.parametrize("from_logits", _LOSSES)
@tiers.parametrize("head", random_networks.HEADS)
def test_heads(head, from_logits):
    """Behind one layer certificates are tight, and a factor too many shows."""
    rng = np.random.default_rng(0)
    found = _assert_sound(rng, head, 0, from_logits, _KINDS)
    # Refused is what the loss makes other logits of than those in front of the last activation, and
    # probabilities that it takes for logits.
    is_raw = head.endswith(("linear", "logit", "relu", "spectral"))
    is_cut_off = head.endswith(("flatten", "reshape"))
    is_bounded = {
        None: True,
        False: not is_raw and not is_cut_off,
        True: is_raw or head == "one sigmoid, reshape",
    }
    assert (found > 0.0) == is_bounded[from_logits]


@tiers.parametrize("seed", _SEEDS)
def test_networks(seed):
    rng = np.random.default_rng(seed)
    head = str(rng.choice(list(random_networks.HEADS)))
    depth, from_logits = int(rng.integers(1, 4)), _LOSSES[rng.integers(3)]
    # One of them, because a network of several layers takes long to compile.
    _assert_sound(rng, head, depth, from_logits, [str(rng.choice(_KINDS))])
