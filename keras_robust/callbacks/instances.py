"""Detection of callback classes that were passed instead of their instances."""

import types


def refuse_classes(classes):
    """Makes callback classes raise a helpful TypeError for `callbacks=[AdvTrain]`."""
    for cls in classes:
        cls.set_model = _OfInstances(cls.set_model)


class _OfInstances:
    """A method that raises TypeError when it is called on the class.

    It replaces `set_model`, the first method of a callback that Keras calls.
    """

    def __init__(self, function):
        self._function = function

    def __get__(self, instance, owner):
        if instance is not None:
            return types.MethodType(self._function, instance)

        def called_on_the_class(*arguments):
            # A subclass may call `AdvTrain.set_model(self, model)`.
            if arguments and isinstance(arguments[0], owner):
                return self._function(*arguments)
            raise TypeError(
                "A callback must be an instance of its class: write "
                f"callbacks=[{owner.__name__}(...)]. Received: the class {owner.__name__}"
            )

        return called_on_the_class
