import pytest

from keras_robust.evaluation.corruption.severities import NUM_SEVERITIES
from keras_robust.evaluation.corruption.severities import PUBLISHED
from keras_robust.evaluation.corruption.severities import SEVERITIES
from keras_robust.evaluation.corruption.severities import arguments_of
from keras_robust.evaluation.corruption.severities import nearest_size


def test_every_kind_has_five_severities_for_every_size():
    assert len(SEVERITIES) == 15 and NUM_SEVERITIES == 5
    for kind, sizes in SEVERITIES.items():
        assert list(sizes) == list(PUBLISHED) == [32, 64, 224]
        for size in sizes:
            found = [arguments_of(kind, severity, size) for severity in range(1, 6)]
            assert len(set(found)) == 5, kind
            assert len({len(arguments) for arguments in found}) == 1


@pytest.mark.parametrize(
    ("kind", "severity", "size", "expected"),
    [
        # As the authors' code has them.
        ("gaussian_noise", 3, 224, (0.18,)),
        ("shot_noise", 5, 32, (50,)),
        ("motion_blur", 2, 64, (10, 1.5)),
        ("snow", 4, 224, ((0.55, 0.3, 4.5, 0.85), (12, 8), 0.65)),
        ("elastic_transform", 5, 64, (0.16, 0.03, 0.02)),
        ("jpeg_compression", 1, 224, (25,)),
    ],
)
def test_the_published_arguments(kind, severity, size, expected):
    assert arguments_of(kind, severity, size) == expected


def test_the_elastic_transform_of_imagenet_has_the_published_pixels():
    strength, smoothness, jitter = (224 * one for one in arguments_of("elastic_transform", 1, 224))
    assert (strength, smoothness, jitter) == pytest.approx((488.0, 170.8, 24.4))


# The square roots of 32 * 64 and of 64 * 224 are 45.3 and 119.7.
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(8, 8, 32), (45, 90, 32), (46, 46, 64), (300, 119, 64), (120, 120, 224), (600, 400, 224)],
)
def test_the_nearest_published_size_in_ratio(height, width, size):
    assert nearest_size(height, width) == size
