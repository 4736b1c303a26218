"""Accuracy under common corruptions: noise, blur, weather and digital artifacts."""

import time

import numpy as np
import scipy

from keras_robust import models
from keras_robust.attacks.attack_loss import check_choice
from keras_robust.attacks.attack_loss import check_seed
from keras_robust.attacks.data import to_arrays
from keras_robust.calls import with_argument_advice
from keras_robust.evaluation.checks.chance import measure_chance
from keras_robust.evaluation.corruption.baseline import baseline_errors
from keras_robust.evaluation.corruption.corrupt import KINDS
from keras_robust.evaluation.corruption.corrupt import SEVERITIES
from keras_robust.evaluation.corruption.corrupt import check_bounds
from keras_robust.evaluation.corruption.corrupt import check_images
from keras_robust.evaluation.corruption.corrupt import corrupt
from keras_robust.evaluation.corruption.corruption_report import CorruptionReport
from keras_robust.evaluation.corruption.digital import load_pillow
from keras_robust.evaluation.corruption.severities import PUBLISHED
from keras_robust.evaluation.corruption.severities import nearest_size
from keras_robust.evaluation.inputs import EvaluationInputs
from keras_robust.evaluation.versions import library_versions
from keras_robust.threat_models import Linf


@with_argument_advice
@models.with_own_noise
def corruptions(
    model,
    data,
    *,
    kinds=None,
    bounds=(0.0, 1.0),
    baseline=None,
    num_examples=None,
    batch_size=256,
    seed=0,
):
    """Returns the accuracy of an image classifier under 15 kinds of corruptions.

    These are the corruptions of ImageNet-C and CIFAR-10-C, at five severities: `gaussian_noise`,
    `shot_noise`, `impulse_noise`, `defocus_blur`, `glass_blur`, `motion_blur`, `zoom_blur`, `snow`,
    `frost`, `fog`, `brightness`, `contrast`, `elastic_transform`, `pixelate` and
    `jpeg_compression`. With the error `E_{s,c}` at severity `s` of kind `c`, and that of a
    baseline, `E^b_{s,c}`,

        CE_c = sum_s E_{s,c} / sum_s E^b_{s,c}
        relative CE_c = sum_s (E_{s,c} - E_clean) / sum_s (E^b_{s,c} - E^b_clean)

    The mCE and the relative mCE are their means over the kinds. The baseline of the paper is
    AlexNet. Without a baseline, the report has the mean error, `report.mean_error`, and no mCE.

    A model must not be trained on these corruptions, or the numbers say nothing about others. They
    say nothing about an attacker either: see `evaluate`.

    The parameters are those of the authors' code for 32 (CIFAR-10-C), 64 (Tiny-ImageNet-C) or 224
    (ImageNet-C) pixels, whichever is nearest in ratio to the shorter side: up to 45 pixels those of
    CIFAR-10-C, and from 120 those of ImageNet-C. Numbers from different sets of parameters do not
    compare, nor do they with those on the published images, because of these deviations:

    - The photographs of frost are replaced by a texture of random needles of ice.
    - Pixels stay floats, except for `pixelate` and `jpeg_compression`. The published images are
      stored in 8 bits, and those of ImageNet-C as JPEG.
    - SciPy and Pillow replace OpenCV, ImageMagick and scikit-image. Kernels sum exactly to 1.
    - The displacements of `elastic_transform` are shares of the shorter side.
    - `glass_blur` copies neighbors, as the authors' code does; the paper says that it swaps them.
    - One channel is taken for the luminance.

    Cost: on one core, the 75 copies of an image of 32 x 32 take about 0.1 s, and of 224 x 224 about
    1.5 s, besides the model.

    Args:
        model: as in `evaluate`.
        data: `(x, y)` arrays, or a `tf.data.Dataset` of batches `(x, y)`, with images
            `(n, height, width, channels)` of 1 or 3 channels and at least 8 pixels on each side.
        kinds: list of names, or `None` for all 15. Defaults to `None`.
        bounds: pair of numbers, the values of black and white. Defaults to `(0.0, 1.0)`.
        baseline: a model for the same classes, which sees the same images, in a call of its own;
            or a `CorruptionReport`
            on the same parameters; or a dict from each kind to the error of a baseline, from 0 to
            1, a list for the five severities or their mean, and from `"clean"` to its error without
            corruptions, for the relative mCE. `None` for no mCE. Defaults to `None`.
        num_examples: int, only the first `num_examples` examples; `None` for all. Defaults to
            `None`.
        batch_size: int. Does not change the images. Defaults to `256`.
        seed: int, the seed of the corruptions. Defaults to `0`.

    Returns:
        A `CorruptionReport`.

    Raises:
        ValueError: for unknown kinds, for inputs that are not such images or lie outside of the
            bounds, for a baseline without errors or with other classes, and as in `evaluate`.
        ImportError: without Pillow, which the extra `corruptions` installs, unless `kinds` leaves
            out `pixelate` and `jpeg_compression`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import keras_robust as kr
    >>> x = np.random.default_rng(0).uniform(size=(100, 8, 8, 1)).astype("float32")
    >>> y = (x.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    >>> def bright(x):
    ...     score = keras.ops.mean(x, axis=(1, 2, 3)) - 0.5
    ...     return keras.ops.stack([-score, score], axis=-1)
    >>> report = kr.evaluation.corruptions(bright, (x, y), kinds=["contrast", "brightness"])
    >>> print(np.round(report.accuracy, 2))
    [[1.   1.   1.   1.   1.  ]
     [0.6  0.49 0.48 0.48 0.48]]

    References:
        - [Hendrycks and Dietterich, 2019](https://arxiv.org/abs/1903.12261)
        - [The authors' code](https://github.com/hendrycks/robustness)
    """
    start, kinds = time.perf_counter(), _check_kinds(kinds)
    check_seed(seed)
    x, y = to_arrays(data, num_examples)
    x, bounds = check_images(x, bounds), check_bounds(bounds)
    inputs = EvaluationInputs.of(
        model, (x, y), Linf(0.0, bounds), num_examples=None, batch_size=batch_size
    )
    parameters = PUBLISHED[nearest_size(*x.shape[1:3])]
    arguments = {"bounds": bounds, "seed": seed}
    # The copies depend on the data and the seed alone, so the baseline sees the same.
    if callable(baseline):
        baseline = corruptions(baseline, (x, y), kinds=kinds, batch_size=batch_size, **arguments)
    if baseline is not None:
        baseline = baseline_errors(baseline, kinds, parameters, inputs.logits.shape[-1])
    counts = [
        [_count_correct(inputs, kind, severity, batch_size, arguments) for severity in SEVERITIES]
        for kind in kinds
    ]
    correct = _is_correct(inputs.logits, inputs.labels)
    chance = measure_chance(inputs.labels, np.argmax(inputs.logits, axis=-1))
    return CorruptionReport(
        kinds=kinds,
        num_examples=len(x),
        num_classes=inputs.logits.shape[-1],
        num_clean_correct=int(correct.sum()),
        num_correct=counts,
        parameters=parameters,
        bounds=bounds,
        baseline=baseline,
        warnings=[chance.warning] if chance is not None and chance.warning else [],
        seed=seed,
        versions={**library_versions(), "scipy": scipy.__version__},
        seconds=time.perf_counter() - start,
    )


def _check_kinds(kinds):
    """Returns the kinds as a list, or raises an error for one that cannot be computed."""
    kinds = list(KINDS if kinds is None else [kinds] if isinstance(kinds, str) else kinds)
    for kind in kinds:
        check_choice("kinds", kind, KINDS)
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"Argument `kinds` must name at least one kind, each of them once. Received: {kinds}"
        )
    # Fail now rather than after all other kinds.
    if {"pixelate", "jpeg_compression"} & set(kinds):
        load_pillow()
    return kinds


def _count_correct(inputs, kind, severity, batch_size, arguments):
    """Returns the number of correct predictions under a corruption."""
    count = 0
    for start in range(0, len(inputs.x), batch_size):
        rows = slice(start, start + batch_size)
        images = corrupt(inputs.x[rows], kind, severity, first_row=start, **arguments)
        logits = models.predict_logits(inputs.model, images, batch_size)
        count += int(_is_correct(logits, inputs.labels[rows]).sum())
    return count


def _is_correct(logits, labels):
    """Returns whether predictions are right; one that is not finite never is."""
    return (np.argmax(logits, axis=-1) == labels) & np.isfinite(logits).all(axis=-1)
