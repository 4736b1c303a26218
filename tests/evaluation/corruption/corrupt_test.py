import numpy as np
import pytest

import keras_robust as kr
from keras_robust.evaluation.corruption.corrupt import KINDS
from keras_robust.evaluation.corruption.severities import arguments_of
from tests.support import refusals

BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
every_kind = pytest.mark.parametrize("kind", KINDS)


def images(count=3, side=12, channels=3):
    """Images of coarse and fine parts, which have something to blur and to displace."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0.2, 0.8, size=(count, 4, 4, channels))
    fine = rng.uniform(-0.1, 0.1, size=(count, side, side, channels))
    return (np.kron(coarse, np.ones((1, side // 4, side // 4, 1))) + fine).astype("float32")


def test_the_kinds_of_the_paper():
    assert len(KINDS) == len(set(KINDS)) == 15
    assert KINDS[0] == "gaussian_noise" and KINDS[-1] == "jpeg_compression"


@every_kind
def test_the_copies_do_not_depend_on_the_batch(kind):
    x = images(4)
    whole = kr.evaluation.corrupt(x, kind, 3, seed=5)
    np.testing.assert_array_equal(kr.evaluation.corrupt(x, kind, 3, seed=5), whole)
    parts = [kr.evaluation.corrupt(x[i : i + 2], kind, 3, seed=5, first_row=i) for i in (0, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_kind
@pytest.mark.parametrize("channels", [1, 3])
def test_the_copies_are_such_images_in_the_units_of_the_bounds(kind, channels):
    x = images(2, channels=channels)
    unit = kr.evaluation.corrupt(x, kind, 4)
    assert unit.shape == x.shape and unit.dtype == x.dtype
    assert 0.0 <= unit.min() and unit.max() <= 1.0
    found = kr.evaluation.corrupt(255.0 * x, kind, 4, bounds=(0, 255))
    # Counts of photons, and levels of 8 bits, may differ by one in a float of another size.
    assert np.mean(np.abs(found / 255.0 - unit) > 1e-6) < 0.05
    signed = kr.evaluation.corrupt(2.0 * x - 1.0, kind, 4, bounds=(-1.0, 1.0))
    assert np.mean(np.abs((signed + 1.0) / 2.0 - unit) > 1e-6) < 0.05
    assert signed.min() >= -1.0


@every_kind
def test_every_severity_changes_the_image_and_the_last_one_more_than_the_first(kind):
    # As large as published, because the smallest fifth of a smaller image may be all of it.
    x = images(3, side=32)
    changes = [np.abs(kr.evaluation.corrupt(x, kind, s) - x).mean() for s in range(1, 6)]
    assert min(changes) > 1e-4
    if kind == "elastic_transform":
        # The smaller the parts that move, the less they move.
        assert changes[4] < changes[1]
    else:
        assert changes[4] > changes[0]


RANDOM = set(KINDS) - {"defocus_blur", "zoom_blur", "brightness", "contrast"}
RANDOM -= {"pixelate", "jpeg_compression"}


@every_kind
def test_random_kinds_depend_on_row_and_seed(kind):
    x = np.repeat(images(1), 2, axis=0)
    one, other = kr.evaluation.corrupt(x, kind, 5)
    later = kr.evaluation.corrupt(x, kind, 5, seed=1)[0]
    differ = [not np.array_equal(one, two) for two in (other, later)]
    assert sum(differ) == (2 if kind in RANDOM else 0)


@pytest.mark.parametrize("kind", BLURS)
def test_a_blur_keeps_a_constant_image(kind):
    x = np.full((1, 16, 12, 3), 0.6, "float32")
    np.testing.assert_allclose(kr.evaluation.corrupt(x, kind, 5), x, atol=1e-6)


@pytest.mark.parametrize(("side", "size"), [(32, 32), (64, 64), (160, 224)])
def test_noise_has_the_published_deviation_for_the_size(side, size):
    x = np.full((1, side, side, 3), 0.5, "float32")
    (stddev,) = arguments_of("gaussian_noise", 2, size)
    found = kr.evaluation.corrupt(x, "gaussian_noise", 2) - 0.5
    assert found.std() == pytest.approx(stddev, rel=0.05)


def test_the_numbers_of_severities_are_not_related():
    x = np.full((1, 32, 32, 3), 0.5, "float32")
    noises = [kr.evaluation.corrupt(x, "gaussian_noise", s).ravel() - 0.5 for s in (1, 5)]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fogg"}, r"`kind` must be one of .*'fogg'"),
        ({"severity": 0}, "`severity` must be an int from 1 to 5.*severity=0"),
        ({"severity": 6}, "severity=6"),
        ({"severity": True}, "severity=True"),
        ({"severity": 2.0}, r"severity=2\.0"),
        ({"seed": 0.5}, "`seed` must be an int"),
        ({"x": np.zeros((2, 12, 12))}, r"`x\[..., None\]` adds a channel.*\(2, 12, 12\)"),
        ({"x": np.zeros((2, 12, 12, 4))}, r"1 or 3 channels.*\(2, 12, 12, 4\)"),
        ({"x": np.zeros((2, 12, 7, 3))}, r"at least 8 pixels.*\(2, 12, 7, 3\)"),
        ({"x": np.full((1, 8, 8, 1), 2.0)}, r"argument `bounds`.*values in \[2, 2\]"),
        ({"x": np.full((1, 8, 8, 1), np.nan)}, "must be finite"),
        ({"bounds": None}, "`bounds` must be a pair of finite numbers"),
        ({"bounds": (1, 0)}, r"low < high.*\(1, 0\)"),
        ({"bounds": (0.0, np.inf)}, r"`bounds` must be a pair of finite numbers.*inf"),
        ({"bounds": ([0, 0, 0], 1)}, "`bounds` must be a pair of finite numbers"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    arguments = {"x": images(), "kind": "fog", "severity": 1, **arguments}
    with refusals.assert_refused(message):
        kr.evaluation.corrupt(**arguments)
