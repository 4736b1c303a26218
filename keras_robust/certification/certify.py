"""Certified accuracy: a lower bound of the accuracy under any attack."""

import inspect
import operator
import platform
import time

import keras
import numpy as np

from keras_robust import threat_models
from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.data import check_examples
from keras_robust.attacks.data import to_arrays
from keras_robust.calls import advice
from keras_robust.calls import is_bounds
from keras_robust.calls import is_radius
from keras_robust.calls import with_argument_advice
from keras_robust.certificate import registry
from keras_robust.certification.certificate_report import CertificateReport
from keras_robust.certification.certificate_report import certified_curve
from keras_robust.configurable import required_arguments
from keras_robust.configurable import short_repr
from keras_robust.evaluation.validation import check_labels
from keras_robust.layers import RandomizedSmoothing
from keras_robust.models import predict_clean
from keras_robust.version import __version__

_OWN_RADII = (
    "A certificate finds the radius of each example, and `report.certified_accuracy(radius)` "
    "returns the accuracy at one radius."
)


@with_argument_advice
def certify(
    model,
    data,
    method="smoothing",
    *,
    num_examples=None,
    batch_size=None,
    seed=0,
    verbose=False,
    **options,
):
    """Proves for each example a radius within which its prediction cannot change.

    An attack shows that a model is not robust; a certificate proves that it is, up to a radius. The
    radius never exceeds the distance of the nearest mistake, and is often far smaller. A radius of
    0 says nothing about the model, only that the method found no proof. `"smoothing"` works for
    every classifier. It certifies the vote over noisy copies, not the model itself, with a
    probability of error of `alpha` for each example. The other methods certify the model itself, up
    to rounding.

    Args:
        model: `keras.Model`; for `"smoothing"` also a callable that returns logits, or a
            `layers.RandomizedSmoothing`; for `"linear"` also a callable.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, not used in training.
        method: a `certification.Certificate` or its name: `"smoothing"` (L2, random), `"interval"`
            (Linf, for models trained by `objectives.IBP`), `"crown"` and `"alpha_crown"` (Linf, L2,
            L1, for ordinary networks of a few layers), `"complete"` (Linf, one radius, a proof or a
            counterexample for small ReLU networks), `"lipschitz"` (L2, for models of orthogonal
            layers) or `"linear"` (exact). Defaults to `"smoothing"`.
        num_examples: int, certifies only the first `num_examples` examples; `None` for all.
            Defaults to `None`.
        batch_size: int, which does not change the result, except for what `"complete"` leaves
            undecided in its time; or `None` for the choice of the method: 256 examples, or for
            `"smoothing"` as many noisy copies as suit a CPU. Defaults to `None`.
        seed: int, the seed of the noise. Defaults to `0`.
        verbose: bool, whether to show a progress bar, for methods that take long. Defaults to
            `False`.
        **options: arguments of the certificate if `method` is a name, such as `noise_stddev=0.25`.

    Returns:
        A `CertificateReport`.

    Raises:
        ValueError: for unknown names; for empty, endless or invalid data; for labels that are not
            classes; for one output column within [0, 1] that may be a logit or a probability; and
            for models that the method does not support.

    Example:

    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.array([[0.2, 0.8], [0.4, 0.5], [0.9, 0.1]], "float32")
    >>> y = np.array([1, 1, 0])
    >>> report = kr.certify(lambda x: 10.0 * x, (x, y), "linear", norm="Linf")
    >>> print(np.round(report.radii, 2), f"{report.certified_accuracy(0.1):.2f}")
    [0.3  0.05 0.4 ] 0.67

    References:
        - [Cohen et al., 2019](https://arxiv.org/abs/1902.02918)
        - [Gowal et al., 2018](https://arxiv.org/abs/1810.12715)
        - [Zhang et al., 2018](https://arxiv.org/abs/1811.00866)
    """
    start, seed = time.perf_counter(), operator.index(seed)
    # Resolve first: the report must state the noise that was used, even if the model chose it.
    method = _get(method, options).resolve(model)
    sizes = {} if batch_size is None else {"batch_size": batch_size}
    check_counts(**sizes)
    x, y = _check_data(data, num_examples, getattr(method, "bounds", None))
    # Check and score the model itself. A RandomizedSmoothing would answer with random votes.
    plain = model.model if isinstance(model, RandomizedSmoothing) else model
    logits = predict_clean(plain, x, **sizes)
    labels = check_labels(y, logits)
    found = method.certify(model, x, **sizes, seed=seed, verbose=verbose)
    # An abstention, -1, equals no label, so it counts as wrong.
    correct = found.predictions == labels
    return CertificateReport(
        method={"class_name": type(method).__name__, "config": method.get_config()},
        model_name=_name_of(plain),
        norm=method.norm,
        num_examples=len(x),
        num_classes=logits.shape[-1],
        clean_accuracy=float(np.mean(correct)),
        abstained=float(np.mean(found.predictions < 0)),
        # Zhai et al. (2020) count wrong predictions with radius 0 as well.
        average_radius=float(np.sum(found.radii[correct]) / len(x)),
        curve=certified_curve(correct, found.radii),
        labels=labels.tolist(),
        predictions=found.predictions.tolist(),
        radii=found.radii.tolist(),
        broken_radii=_listed(found.broken_radii),
        seed=seed,
        versions={
            "keras_robust": __version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        seconds=time.perf_counter() - start,
    )


def _name_of(model):
    """Returns the name of a model, or of the function that is one."""
    return str(getattr(model, "name", getattr(model, "__name__", type(model).__name__)))


def _listed(broken_radii):
    """Returns the radii as a list for JSON, which has no infinity."""
    if broken_radii is None:
        return []
    return [float(radius) if np.isfinite(radius) else None for radius in broken_radii]


def _check_data(data, num_examples, bounds):
    """Returns the arrays `(x, y)`, with `x` a single input within the bounds."""
    # `check_examples` takes bounds from a threat model. The radius of this one is never used.
    box = threat_models.Linf(0.0, bounds)
    whose = "the bounds of the certificate, its argument `bounds`"
    x, y = to_arrays(data, num_examples)
    if keras.tree.is_nested(x):
        raise ValueError(
            "A certificate is about a model with one input, and this model has several. Build a "
            "keras.Model with one of the inputs and fixed values for the others. "
            f"Received: inputs {list(x) if isinstance(x, dict) else len(x)}"
        )
    return check_examples(x, y, box, whose)


def _get(method, options):
    """Returns the certificate, built with the options if `method` is a name."""
    cls = registry.find(method)
    if cls is not None:
        _check_options(method, cls, options)
        return cls(**options)
    if not options:
        return registry.get(method)
    if isinstance(method, str):
        raise registry.unknown(method)
    raise ValueError(
        "Further arguments need a certificate given by name, one of "
        f"{sorted(registry.classes)}. Received: method={method!r} with {sorted(options)}"
    )


def _check_options(method, cls, options):
    """Raises a `ValueError` for arguments that a certificate does not have, or lacks."""
    known = list(inspect.signature(cls).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        texts = dict.fromkeys(_advice(cls, name, options[name], known) for name in unknown)
        raise ValueError(
            f"Expected only the arguments {known} of {cls.__name__}. "
            f"{' '.join(texts)} Received: {', '.join(unknown)}"
        )
    missing = [name for name in required_arguments(cls) if name not in options]
    if missing:
        given = f" with {sorted(options)}" if options else ""
        raise ValueError(
            f"{cls.__name__} has no default for {', '.join(missing)}: pass "
            f"{', '.join(f'{name}=... (--{name})' for name in missing)}. "
            f"Received: method={method!r}{given}"
        )


def _advice(cls, name, value, known):
    """Returns a sentence that says what to write instead of an unknown argument."""
    if is_bounds(name) and "bounds" not in known:
        return f"{cls.__name__} needs no bounds, because its proofs hold without a box."
    if not is_radius(name):
        return advice(name, value, known)
    radius = short_repr(value)
    if "radius" in required_arguments(cls):
        return f"Write radius={radius}."
    ways = {"radius": f"radius={radius}", "max_radius": f"max_radius={radius}, num_steps=0"}
    way = next((text for own, text in ways.items() if own in known), None)
    return f"{_OWN_RADII} To decide one radius at the least cost use {way}." if way else _OWN_RADII
