"""Callbacks that say so when their class stands in the list of callbacks of `fit`."""

import types


def refuse_classes(classes):
    """Makes callback classes raise a `TypeError` that helps for `callbacks=[AdvTrain]`."""
    for cls in classes:
        cls.set_model = _OfInstances(cls.set_model)


class _OfInstances:
    """The method that Keras calls first of a callback; on the class it says what is missing."""

    def __init__(self, function):
        self._function = function

    def __get__(self, instance, owner):
        if instance is not None:
            return types.MethodType(self._function, instance)

        def called_on_the_class(*arguments):
            if arguments and isinstance(arguments[0], owner):
                return self._function(*arguments)
            raise TypeError(
                "A callback is an object of its class: write "
                f"callbacks=[{owner.__name__}(...)]. Received: the class {owner.__name__}"
            )

        return called_on_the_class
