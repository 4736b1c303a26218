"""Loads threat models from untrusted configs."""

from keras_robust.threat_models.threat_model import registry


def from_untrusted_config(class_name, config):
    """Returns a threat model of this package, made from its config.

    The function constructs only threat models of this package, even if the config names other
    classes.

    Args:
        class_name: str, such as `"Linf"`.
        config: dict, the result of `get_config`.

    Returns:
        A `ThreatModel`, or `None` if this package has no such class.

    Raises:
        ValueError: if the class does not accept the config.
    """
    cls = _known(class_name)
    return None if cls is None else _make(cls, config)


def _known(name):
    cls = registry.classes.get(name.lower()) if isinstance(name, str) else None
    return cls if cls is not None and cls.__name__ == name else None


def _make(cls, config):
    # Call the constructor. `from_config` would build any registered class that the config names.
    try:
        return cls(**{name: _from_config(value) for name, value in config.items()})
    # An untrusted config may have values of any type, which raise any error.
    except Exception as error:
        raise ValueError(
            f"Expected the arguments of {cls.__name__}. "
            f"Received: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def _from_config(value):
    if isinstance(value, dict) and "class_name" in value:
        cls = _known(value["class_name"])
        if cls is None:
            raise ValueError(
                "Expected a threat model of this package. "
                f"Received: the class {str(value['class_name'])[:50]!r}"
            )
        return _make(cls, value.get("config"))
    if isinstance(value, dict):
        return {key: _from_config(item) for key, item in value.items()}
    return [_from_config(item) for item in value] if isinstance(value, list) else value
