"""Registry of classes by name, so that `attack="pgd"` works as Keras users expect."""

import difflib

import keras

from keras_robust.calls import explain_calls
from keras_robust.configurable import required_arguments


class Registry:
    """Finds an object by name, config, class or instance.

    Args:
        kind: str, the name of the kind of object for error messages, for example `"attack"`.
        base: class, the base class of every entry.
        classes: list of classes. The name of a class is found in any case and with underscores
            (`"PGD"`, `"pgd"`, `"clean_logit_pairing"`).

    Example:

    >>> import keras_robust as kr
    >>> kr.attacks.get("pgd").num_steps
    10
    """

    def __init__(self, kind, base, classes=()):
        self.kind = kind
        self.base = base
        self.classes = {}
        self.extend(classes)

    def extend(self, classes):
        """Adds classes, and makes their constructors explain unknown arguments."""
        explain_calls(classes)
        self.classes.update((cls.__name__.lower(), cls) for cls in classes)

    def get(self, identifier):
        """Returns an instance for `identifier`: a name, a config, a class or an instance."""
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, dict) and "class_name" in identifier:
            return self.get(keras.saving.deserialize_keras_object(identifier))
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return self._make(identifier, identifier)
        found = self.find(identifier)
        if found is None:
            raise self.unknown(identifier)
        return self._make(found, identifier)

    def find(self, name):
        """Returns the class with this name, or `None`."""
        return self.classes.get(_key(name)) if isinstance(name, str) else None

    def unknown(self, identifier, others=()):
        """Returns the `ValueError` for an unknown identifier.

        Args:
            identifier: the value that was received.
            others: list of str, names that the caller accepts besides the names of the classes.
        """
        names = [*others, *sorted(self.classes)]
        received, hint = repr(identifier), ""
        if isinstance(identifier, str):
            near = difflib.get_close_matches(_key(identifier), map(_key, names), n=1)
            hint = f". Did you mean {names[[*map(_key, names)].index(near[0])]!r}?" if near else ""
        elif hasattr(identifier, "shape"):
            received = f"an array of shape {tuple(identifier.shape)}"
            hint = ". Examples and labels are one argument: data=(x, y)"
        elif len(received) > 80:
            received = f"an object of type {type(identifier).__name__}"
        return ValueError(
            f"Unknown {self.kind}. Expected one of {', '.join(map(repr, names))}, or an object of "
            f"{self.base.__name__}. Received: {received}{hint}"
        )

    def _make(self, cls, identifier):
        required = required_arguments(cls)
        if required:
            raise ValueError(
                f"The {self.kind} {cls.__name__} needs arguments, so its name alone is not enough: "
                f"pass {cls.__name__}({', '.join(f'{name}=...' for name in required)}). "
                f"Received: {identifier!r}"
            )
        return cls()


def _key(name):
    return name.lower().replace("_", "")
