"""Names for classes, so that `attack="pgd"` works wherever Keras users expect it."""

import difflib

import keras

from keras_robust.configurable import required_arguments


class Registry:
    """Finds an object by name, config, class or instance.

    Args:
        kind: str, what the registry holds, for error messages: `"attack"`.
        base: class, what every entry derives from.
        classes: list of classes; a class answers to its own name in any case (`"PGD"`, `"pgd"`,
            `"clean_logit_pairing"`).

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
        """Adds classes."""
        self.classes.update((cls.__name__.lower(), cls) for cls in classes)

    def get(self, identifier):
        """Returns an instance for `identifier`: a name, a config, a class or an instance."""
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, dict) and "class_name" in identifier:
            return self.get(keras.saving.deserialize_keras_object(identifier))
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return self._make(identifier, identifier)
        key = identifier.lower().replace("_", "") if isinstance(identifier, str) else None
        if key in self.classes:
            return self._make(self.classes[key], identifier)
        known = ", ".join(repr(name) for name in sorted(self.classes))
        near = difflib.get_close_matches(key or "", self.classes, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        received = repr(identifier)
        if len(received) > 80:
            received = f"an object of type {type(identifier).__name__}"
        raise ValueError(
            f"Unknown {self.kind}. Expected one of {known}, or an object of {self.base.__name__}. "
            f"Received: {received}{hint}"
        )

    def _make(self, cls, identifier):
        required = required_arguments(cls)
        if required:
            raise ValueError(
                f"The {self.kind} {cls.__name__} needs arguments, so that its name alone does not "
                f"do: pass {cls.__name__}({', '.join(f'{name}=...' for name in required)}). "
                f"Received: {identifier!r}"
            )
        return cls()
