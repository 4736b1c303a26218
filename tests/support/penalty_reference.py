"""The search of C&W and EAD for one example, in NumPy float64, on the network of the reference."""

import numpy as np

from tests.support import numpy_reference


def margin(point, label):
    """By how much the best other class beats `label`, and the gradient of that."""
    z = numpy_reference.logits(point)
    others = np.delete(z, label)
    gradient = numpy_reference.gradient(point[None], np.array([label]), "margin")[0]
    return others.max() - z[label], gradient


def make_hinge(x, y, targeted, confidence):
    """Returns the function `point -> hinge, hit, gradient`."""
    least_likely = np.argmin(numpy_reference.logits(x))

    def hinge(point):
        lead, gradient = margin(point, y)
        spare = -lead if targeted is True else lead
        if targeted is False:
            lead, gradient = -lead, -gradient
        elif targeted == "least_likely":
            lead, gradient = margin(point, least_likely)
        wins = np.argmax(numpy_reference.logits(point)) == y
        hit = (wins if targeted is True else not wins) and spare >= confidence
        active = lead + confidence > 0.0
        return max(lead + confidence, 0.0), hit, gradient * active

    return hinge


def search(
    x,
    y,
    descent,
    *,
    num_steps,
    search_steps=9,
    initial_weight=1e-3,
    confidence=0.0,
    targeted=False,
):
    """Returns the smallest mistake, `None` if there is none, and how many steps were taken.

    `descent(x, weight, hinge)` yields tuples `(point, loss, size, hit)`.
    """
    hinge = make_hinge(x, y, targeted, confidence)
    weight, failed, worked = initial_weight, 0.0, np.inf
    best, smallest, count = None, np.inf, 0
    every = int(np.ceil(num_steps / 10))
    for _ in range(search_steps):
        checked, found = np.inf, False
        for step, (point, loss, size, hit) in enumerate(descent(x, weight, hinge), 1):
            count += 1
            found = found or hit
            if hit and size < smallest:
                best, smallest = point, size
            if step % every == 0:
                if loss > 0.9999 * checked:
                    break
                checked = loss
            if step == num_steps:
                break
        if found:
            worked = weight
        else:
            failed = weight
        weight = 0.5 * (failed + worked) if np.isfinite(worked) else 10.0 * weight
    return best, count


def search_all(x, y, descent, **settings):
    """Returns points (the example itself where nothing was found), success and steps."""
    found = [search(*row, descent, **settings) for row in zip(x.astype("float64"), y, strict=True)]
    points = [one if point is None else point for one, (point, _) in zip(x, found, strict=True)]
    return np.stack(points), [point is not None for point, _ in found], [n for _, n in found]
