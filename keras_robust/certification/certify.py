"""Certified accuracy: what no attack can take away."""

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
from keras_robust.calls import is_radius
from keras_robust.calls import with_argument_advice
from keras_robust.certification.certificate import registry
from keras_robust.certification.certificate_report import CertificateReport
from keras_robust.certification.certificate_report import certified_curve
from keras_robust.evaluation.validation import check_labels
from keras_robust.evaluation.validation import predict_clean
from keras_robust.layers import RandomizedSmoothing
from keras_robust.version import __version__

_OWN_RADII = (
    "A certificate finds the radius of each example, and `report.certified_accuracy(radius)` says "
    "how many have one so large."
)


@with_argument_advice
def certify(
    model,
    data,
    method="smoothing",
    *,
    num_examples=None,
    batch_size=256,
    seed=0,
    verbose=False,
    **options,
):
    """Proves for each example a radius within which its prediction stays, and returns them all.

    An attack shows that a model is not robust; a certificate proves that it is, up to a radius that
    is never above the distance of the nearest mistake, and mostly far below. A radius of 0 is no
    verdict on the model but on the method. `"smoothing"` works for every classifier and proves
    something about another one, the vote over noisy copies, with a chance of error of `alpha` for
    each example; the others prove something about the model itself, up to rounding.

    Args:
        model: `keras.Model`; for `"smoothing"` also a callable that returns logits, or a
            `layers.RandomizedSmoothing`; for `"linear"` also a callable.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, that training never saw.
        method: a `certification.Certificate` or its name: `"smoothing"` (L2, random), `"interval"`
            (Linf, for models trained by `objectives.IBP`), `"lipschitz"` (L2, for models of
            orthogonal layers) or `"linear"` (exact). Defaults to `"smoothing"`.
        num_examples: int, the first so many examples; `None` for all. Defaults to `None`.
        batch_size: int. Does not change the result. Defaults to `256`.
        seed: int, of the noise. Defaults to `0`.
        verbose: bool, whether to show a progress bar, where it takes long. Defaults to `False`.
        **options: arguments of the certificate, if `method` is a name: `noise_stddev=0.25`.

    Returns:
        A `CertificateReport`.

    Raises:
        ValueError: for unknown names, empty, endless or invalid data, labels that are no class, one
            column of outputs within [0, 1] of which nothing says if it is a logit, and models for
            which the method knows no proof.

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
    """
    start, seed = time.perf_counter(), operator.index(seed)
    method = _get(method, options).resolve(model)
    check_counts(batch_size=batch_size)
    box = threat_models.Linf(0.0, getattr(method, "bounds", None))
    whose = "the bounds of the certificate, its argument `bounds`"
    x, y = to_arrays(data, num_examples)
    if keras.tree.is_nested(x):
        raise ValueError(
            "A certificate is about a model with one input, and this one has several. Make a "
            "keras.Model of the input in question, with the others fixed. "
            f"Received: inputs {list(x) if isinstance(x, dict) else len(x)}"
        )
    x, y = check_examples(x, y, box, whose)
    plain = model.model if isinstance(model, RandomizedSmoothing) else model
    logits = predict_clean(plain, x, batch_size)
    labels = check_labels(y, logits)
    found = method.certify(model, x, batch_size=batch_size, seed=seed, verbose=verbose)
    correct = found.predictions == labels
    return CertificateReport(
        method={"class_name": type(method).__name__, "config": method.get_config()},
        norm=method.norm,
        num_examples=len(x),
        num_classes=logits.shape[-1],
        clean_accuracy=float(np.mean(correct)),
        abstained=float(np.mean(found.predictions < 0)),
        average_radius=float(np.sum(found.radii[correct]) / len(x)),
        curve=certified_curve(correct, found.radii),
        labels=labels.tolist(),
        predictions=found.predictions.tolist(),
        radii=found.radii.tolist(),
        seed=seed,
        versions={
            "keras_robust": __version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        seconds=time.perf_counter() - start,
    )


def _get(method, options):
    """Returns the certificate, made with the options if it was named."""
    if not options:
        return registry.get(method)
    cls = registry.find(method)
    if cls is None and isinstance(method, str):
        raise registry.unknown(method)
    if cls is None:
        raise ValueError(
            f"Further arguments belong to a certificate that is named, one of "
            f"{sorted(registry.classes)}. Received: method={method!r} with {sorted(options)}"
        )
    known = list(inspect.signature(cls).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        texts = [
            _OWN_RADII if is_radius(name) else advice(name, options[name], known)
            for name in unknown
        ]
        raise ValueError(
            f"Expected arguments of {cls.__name__}, of which there are {known}. "
            f"{' '.join(texts)} Received: {', '.join(unknown)}"
        )
    return cls(**options)
