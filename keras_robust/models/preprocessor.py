"""Models whose `fit` and `predict` change the inputs before they call the model."""

import keras


def refuse_preprocessor(model):
    """Raises `ValueError` for a model with a preprocessor that attacks would leave out.

    Tasks of keras_hub have one: `fit`, `evaluate` and `predict` apply it, and a call does not. A
    model that applies its own in `call` is no such model: it has the methods of Keras.
    """
    preprocessor = getattr(model, "preprocessor", None)
    is_task = isinstance(model, keras.Model) and type(model).predict is not keras.Model.predict
    if preprocessor is None or not is_task:
        return
    raise ValueError(
        "This model has a preprocessor, which its `fit` and `predict` apply and attacks do not, so "
        "that the model would be judged on inputs that it never saw. Preprocess the examples, "
        "`x = model.preprocessor(x)`, take it off, `model.preprocessor = None`, and give "
        "`epsilon` and `bounds` in the units of what it returns, in training too. "
        f"Received: {type(model).__name__} with a {type(preprocessor).__name__}"
    )
