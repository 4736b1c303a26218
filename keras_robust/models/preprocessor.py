"""Models whose `fit` and `predict` preprocess the inputs."""

import keras


def refuse_preprocessor(model):
    """Raises ValueError for a model with a preprocessor, which a call would not apply.

    In tasks of keras_hub, `fit`, `evaluate` and `predict` preprocess the inputs, and a call of the
    model does not. A model that preprocesses in its own `call` is accepted: it has the `predict` of
    Keras.
    """
    preprocessor = getattr(model, "preprocessor", None)
    is_task = isinstance(model, keras.Model) and type(model).predict is not keras.Model.predict
    if preprocessor is None or not is_task:
        return
    raise ValueError(
        "This model has a preprocessor, which its `fit` and `predict` apply, and attacks, "
        "certificates and exports do not, so that it would get inputs that it never saw. "
        "Preprocess the examples, `x = model.preprocessor(x)`, remove the preprocessor, "
        "`model.preprocessor = None`, and give `epsilon` and `bounds` in the units of the "
        "preprocessed inputs, in training too. "
        f"Received: {type(model).__name__} with a {type(preprocessor).__name__}"
    )
