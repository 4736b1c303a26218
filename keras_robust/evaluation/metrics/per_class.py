"""Accuracy and confusion of each class."""

import numpy as np


def accuracy_per_class(y, correct, robust, num_classes):
    """Returns clean and robust accuracy of every class.

    Args:
        y: int array `(num_examples,)` of true classes.
        correct: bool array `(num_examples,)`, whether the clean prediction is right.
        robust: bool array `(num_examples,)`, whether the prediction is right under all attacks.
        num_classes: int.

    Returns:
        A list with a dict per class: `"class"`, `"num_examples"`, `"clean_accuracy"` and
        `"robust_accuracy"`; the accuracies of a class without examples are `None`.

    Raises:
        ValueError: if the shapes of the arrays differ.

    Example:

    >>> import numpy as np
    >>> from keras_robust.evaluation import accuracy_per_class
    >>> y, correct, robust = np.array([0, 0]), np.array([True, True]), np.array([True, False])
    >>> print(accuracy_per_class(y, correct, robust, num_classes=1))
    [{'class': 0, 'num_examples': 2, 'clean_accuracy': 1.0, 'robust_accuracy': 0.5}]
    """
    y = _check_classes("y", y, num_classes)
    correct, robust = np.asarray(correct, bool), np.asarray(robust, bool)
    if not y.shape == correct.shape == robust.shape:
        raise ValueError(
            "Expected one class and two bools per example. "
            f"Received: shapes {y.shape}, {correct.shape} and {robust.shape}"
        )
    rows = []
    for number in range(num_classes):
        in_class = y == number
        size = int(in_class.sum())
        rows.append(
            {
                "class": number,
                "num_examples": size,
                "clean_accuracy": float(correct[in_class].mean()) if size else None,
                "robust_accuracy": float(robust[in_class].mean()) if size else None,
            }
        )
    return rows


def confusion(y, predictions, num_classes):
    """Returns the confusion matrix, `counts[true][predicted]`.

    Args:
        y: int array `(num_examples,)` of true classes.
        predictions: int array `(num_examples,)`, for example on the strongest adversarial examples.
        num_classes: int.

    Returns:
        A list of `num_classes` lists of `num_classes` ints.

    Raises:
        ValueError: if the shapes of the arrays differ, or a class is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_robust.evaluation import confusion
    >>> print(confusion(np.array([0, 0, 1]), np.array([1, 0, 1]), num_classes=2))
    [[1, 1], [0, 1]]
    """
    y = _check_classes("y", y, num_classes)
    predictions = _check_classes("predictions", predictions, num_classes)
    if y.shape != predictions.shape:
        raise ValueError(
            "Expected one prediction per example. "
            f"Received: shapes {y.shape} and {predictions.shape}"
        )
    # Each pair of classes becomes one number in base `num_classes`.
    counts = np.bincount(y * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).tolist()


def _check_classes(name, classes, num_classes):
    classes = np.asarray(classes)
    whole = classes.ndim == 1 and np.issubdtype(classes.dtype, np.integer)
    if not whole or not ((classes >= 0) & (classes < num_classes)).all():
        raise ValueError(
            f"Expected class indices from 0 to {num_classes - 1}, one per example. "
            f"Received: {name}={classes}"
        )
    # Products of class indices overflow small integer types, such as uint8 labels.
    return classes.astype("int64")
