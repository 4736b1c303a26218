"""Parts of a region of inputs in which the signs of some ReLUs are known."""

import typing

import numpy as np

# By what share of an interval rounding may cross its ends.
_EMPTY = 1e-9


class Domain(typing.NamedTuple):
    """The inputs of a region for which some ReLUs have inputs of a known sign.

    Fields: `margin`, the index of the margin that is bounded; `splits`, int8 `(units,)`, 1 or -1
    where the sign is known, and 0 elsewhere; `lower` and `upper`, arrays `(units,)`, the intervals
    of the inputs of all ReLUs; `slopes`, float32, the best slopes of the lines for the domain that
    this one is part of, or `None`; `unit`, the ReLU at which it was split, or `None`.
    """

    margin: int
    splits: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    slopes: np.ndarray | None = None
    unit: int | None = None


def roots(indices, ends):
    """Returns the domain of the whole region for each of some margins."""
    none = np.zeros(len(ends[0]), "int8")
    return [Domain(index, none, *ends) for index in indices]


def split(domain):
    """Yields the two parts of a domain at the sign of its unit."""
    unit = domain.unit
    for sign in (1, -1):
        splits, lower, upper = domain.splits.copy(), domain.lower.copy(), domain.upper.copy()
        splits[unit] = sign
        (lower if sign > 0 else upper)[unit] = 0.0
        yield domain._replace(splits=splits, lower=lower, upper=upper)


def is_empty(domain):
    """Returns whether the ends of an interval are crossed by more than rounding."""
    sizes = 1.0 + np.abs(domain.lower) + np.abs(domain.upper)
    return bool(np.any(domain.lower > domain.upper + _EMPTY * sizes))


def unit_to_split(domain, scores):
    """Returns the unit with the highest score, or `None` if all signs are known."""
    is_open = (domain.lower < 0.0) & (domain.upper > 0.0)
    # Gaps are never negative, so that no closed unit wins.
    return int(np.argmax(np.where(is_open, scores, -1.0))) if is_open.any() else None


def stacked(domains, *names):
    """Returns a float64 array `(domains, units)` for each field."""
    return [
        np.stack([getattr(domain, name) for domain in domains]).astype("float64") for name in names
    ]
