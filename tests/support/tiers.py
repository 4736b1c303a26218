"""The two tiers of the tests.

`python -m pytest` runs the default tier. It leaves out what carries the marker `exhaustive`, which
`.ci/exhaustive` runs.
"""

import pytest


def parametrize(names, values, one_for=None, **arguments):
    """Returns `pytest.mark.parametrize` with one case for each key in the default tier.

    Args:
        names: as `pytest.mark.parametrize` takes them.
        values: iterable of cases, a tuple for several names, or of `pytest.param`.
        one_for: function of the values of a case that returns its key. The first case with a key is
            in the default tier, the others are exhaustive. `None`: the first case of all. So
            the case that would show most mistakes comes first.
        **arguments: others of `pytest.mark.parametrize`.
    """
    seen, params = set(), []
    for value in values:
        param = as_param(names, value)
        key = None if one_for is None else one_for(*param.values)
        marks = [*param.marks, pytest.mark.exhaustive] if key in seen else param.marks
        params.append(pytest.param(*param.values, marks=marks, id=param.id))
        seen.add(key)
    return pytest.mark.parametrize(names, params, **arguments)


def as_param(names, value):
    """Returns what `pytest.param` makes of a case."""
    if hasattr(value, "marks"):
        return value
    has_several = not isinstance(names, str) or "," in names
    return pytest.param(*value) if has_several else pytest.param(value)
