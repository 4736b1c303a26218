"""The three outcomes of an example, in the words of ISO/IEC 24029-2."""

import numpy as np

BROKEN, PROVED, INCONCLUSIVE = "broken", "proved", "inconclusive"


def outcomes_of(broken, proved):
    """Returns the outcome of each example, a list of str.

    Args:
        broken: bool array `(n,)`, whether a mistake is known, on the example or in its ball.
        proved: bool array `(n,)`, whether a proof says that there is none. A mistake refutes it.
    """
    found = np.where(broken, BROKEN, np.where(proved, PROVED, INCONCLUSIVE))
    return found.tolist()
