"""Adversarial training on tabular data: several inputs, and a radius for every feature.

The Wisconsin breast cancer data has 30 measurements of cell nuclei: the mean, the error and the
worst value of ten features, each in its own units. The attacker may change the means and the worst
values by a share of the standard deviation of each feature, within the range of the data. The
errors do not change.

    python examples/tabular.py
"""

import keras
import numpy as np
from sklearn import datasets
from sklearn import model_selection

import keras_robust as kr

SHARE = 0.3
GROUPS = ("mean", "error", "worst")
ATTACKED = ("mean", "worst")
SEED = 0


def load():
    """Returns train and test data as pairs of a dict of arrays `(n, 10)` and labels."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    parts = model_selection.train_test_split(
        x.astype("float32"), y, test_size=0.4, random_state=SEED, stratify=y
    )
    x_train, x_test = (dict(zip(GROUPS, np.split(x, 3, axis=1), strict=True)) for x in parts[:2])
    return (x_train, parts[2]), (x_test, parts[3])


def make_model(x):
    """Returns a small classifier that contains the normalization of its inputs."""
    keras.utils.set_random_seed(SEED)
    inputs = {name: keras.Input((10,), name=name) for name in GROUPS}
    normalized = []
    for name in GROUPS:
        layer = keras.layers.Normalization()
        layer.adapt(x[name])
        normalized.append(layer(inputs[name]))
    features = keras.layers.Concatenate()(normalized)
    hidden = keras.layers.Dense(32, activation="relu")(features)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    return model


def main():
    """Trains with and without adversarial examples, and prints clean and robust accuracy."""
    train, test = load()
    parts = {}
    for name in ATTACKED:
        values = np.concatenate([train[0][name], test[0][name]])
        bounds = values.min(axis=0), values.max(axis=0)
        parts[name] = kr.Linf(SHARE * train[0][name].std(axis=0), bounds)
    trainings = {"plain": [], "adversarial": [kr.AdvTrain(parts)]}
    reports = {}
    for name, callbacks in trainings.items():
        model = make_model(train[0])
        model.fit(*train, epochs=20, batch_size=32, verbose=0, callbacks=callbacks)
        attacks = [kr.attacks.PGD(num_steps=20, num_restarts=2, loss="margin")]
        reports[name] = kr.evaluate(model, test, parts, attacks)
    print(f"{'':11} | {'clean':>6} {'robust':>6}")
    for name, report in reports.items():
        print(f"{name:11} | {report.clean_accuracy:6.1%} {report.robust_accuracy:6.1%}")


if __name__ == "__main__":
    main()
