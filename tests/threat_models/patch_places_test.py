import numpy as np

from keras_robust.threat_models import patch_places

SHAPE = (4, 5, 6, 2)
SIZE = (2, 3)


def windows():
    """Returns the masks of all places, in reading order."""
    found = []
    for row in range(SHAPE[1] - SIZE[0] + 1):
        for column in range(SHAPE[2] - SIZE[1] + 1):
            mask = np.zeros((*SHAPE[1:3], 1), "bool")
            mask[row : row + SIZE[0], column : column + SIZE[1]] = True
            found.append(mask)
    return found


def test_place_mask_covers_the_rows_and_columns_of_a_patch():
    x = np.zeros(SHAPE, "float32")
    row, column = np.array([[0], [3], [1], [2]], "int32"), np.array([[0], [3], [2], [1]], "int32")
    expected = np.zeros((*SHAPE[:3], 1), "bool")
    for image, top, left in ((0, 0, 0), (1, 3, 3), (2, 1, 2), (3, 2, 1)):
        expected[image, top : top + 2, left : left + 3] = True
    np.testing.assert_array_equal(patch_places.place_mask(row, column, SIZE, x), expected)


def test_best_place_is_the_best_of_all_places():
    gains = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    found = np.asarray(patch_places.best_place(gains, SIZE))
    for one, mask in zip(gains, found, strict=True):
        best = max(windows(), key=lambda window: np.sum(one * window, dtype="float64"))
        np.testing.assert_array_equal(mask, best)


def test_the_first_of_equal_places_is_best():
    found = np.asarray(patch_places.best_place(np.zeros(SHAPE, "float32"), SIZE))
    np.testing.assert_array_equal(found, np.stack([windows()[0]] * len(found)))


def test_fits_says_whether_any_place_covers_the_changes():
    changed = np.random.default_rng(1).uniform(size=(400, *SHAPE[1:])) < 0.04
    expected = [any(not np.any(one & ~window) for window in windows()) for one in changed]
    assert 50 < sum(expected) < 350
    np.testing.assert_array_equal(patch_places.fits(changed, SIZE), expected)
