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


def certificates(rng):
    bounds = (0.0, 1.0) if rng.uniform() < 0.5 else None
    interval = kr.certification.Interval(bounds, max_radius=1.0, num_steps=12)
    return (interval, bounds), (kr.certification.Lipschitz(), None)


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


def within(x, centre, radii, norm, bounds):
    """Projects on the balls, in float64, and the box."""
    delta = x - centre
    radii = radii.reshape(-1, 1, 1, 1)
    if norm == "L2":
        sizes = np.sqrt(np.sum(delta**2, axis=(1, 2, 3), keepdims=True))
        delta = delta * np.minimum(1.0, radii / np.maximum(sizes, 1e-30))
    else:
        delta = np.clip(delta, -radii, radii)
    moved = centre + delta
    return moved if bounds is None else np.clip(moved, *bounds)


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
        if norm == "L2":
            sizes = np.sqrt(np.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
            direction = gradient / np.maximum(sizes, 1e-30)
        else:
            direction = np.sign(gradient)
        point = within(point + radii.reshape(-1, 1, 1, 1) * direction, centre, radii, norm, bounds)
        classes, logits = decisions(model, point.astype("float32"))
        gaps = logits[np.arange(len(rows)), classes] - logits[np.arange(len(rows)), labels]
        # Only what is above the rounding of float32.
        large = np.abs(gaps) / np.maximum(np.max(np.abs(logits), axis=-1), 1e-30)
        worst = max(worst, np.max(np.where((classes != labels) & (radii > 0.0), large, 0.0)))
    return worst


def _assert_sound(rng, head, depth, from_logits):
    """Returns the largest radius, or 0 where all was refused."""
    try:
        model, names = random_networks.random_network(rng, head, depth, from_logits)
    except ValueError:
        # The image became too small for a layer.
        return 0.0
    x, largest = rng.uniform(size=(4, *random_networks.IMAGE)).astype("float32"), 0.0
    for method, bounds in certificates(rng):
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
    found = _assert_sound(rng, head, 0, from_logits)
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
    _assert_sound(rng, head, int(rng.integers(1, 4)), _LOSSES[rng.integers(3)])
