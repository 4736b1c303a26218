"""What the requirements that a check returns say."""


def message(check, *arguments, **keywords):
    """Returns the message of the first requirement that does not hold, or `None`."""
    for one in check(*arguments, **keywords):
        if not bool(one.condition):
            return one.template.format(*(f"{float(value):g}" for value in one.values))
    return None


def values(check, *arguments, **keywords):
    """Returns the numbers that the first requirement that does not hold shows."""
    broken = (one for one in check(*arguments, **keywords) if not bool(one.condition))
    return [float(value) for value in next(broken).values]
