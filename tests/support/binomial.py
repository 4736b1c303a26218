"""The binomial test of shares, in exact arithmetic."""

import fractions
import math


def allowed_share(tolerated, count):
    """The largest share of `count` examples that is no rarer than 5% at a probability."""
    p = fractions.Fraction(str(tolerated))
    chances = [math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)]
    allowed = next(k for k in range(count + 1) if 1 - sum(chances[: k + 1]) <= 0.05)
    return allowed / count
