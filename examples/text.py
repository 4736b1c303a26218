"""Adversarial training in embedding space on a synthetic sentiment task.

A sentence is a bag of words: some are positive, some are negative, and most are neutral. There are
few training sentences, so a plain model becomes overconfident. The attacker changes the embeddings
of a sentence by at most EPSILON in total, but no word. Adversarial training does not raise the
accuracy on this task. It lowers the loss, on clean embeddings and much more on perturbed ones.

    python examples/text.py
"""

import keras
import numpy as np

import keras_robust as kr

VOCABULARY, LENGTH, WIDTH = 500, 30, 16
EPSILON = 0.5
SEED = 0


def make_sentences(count, rng):
    """Returns tokens `(count, LENGTH)`, padded with 0, and labels: 1 for a positive sentence."""
    words = np.arange(VOCABULARY)
    polarity = np.where(words % 4 == 3, np.where(words % 8 == 3, 1.0, -1.0), 0.0)
    frequency = words[1:] ** -0.8
    tokens = rng.choice(words[1:], (count, LENGTH), p=frequency / frequency.sum())
    lengths = rng.integers(LENGTH // 3, LENGTH + 1, (count, 1))
    tokens[np.arange(LENGTH) >= lengths] = 0
    score = polarity[tokens].sum(axis=-1) + 0.5 * rng.normal(size=count)
    return tokens.astype("int32"), (score > 0.0).astype("int32")


def make_model():
    """Returns a small classifier whose embeddings have length 1, so that EPSILON has a scale."""
    keras.utils.set_random_seed(SEED)
    layers = [
        keras.Input((LENGTH,), dtype="int32"),
        keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True),
        keras.layers.UnitNormalization(name="normalised"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    return model


def main():
    """Trains with and without adversarial examples, and prints results on new sentences."""
    rng = np.random.default_rng(SEED)
    train, test = make_sentences(1000, rng), make_sentences(2000, rng)
    ball = kr.threat_models.AtLayer("normalised", kr.L2(EPSILON, bounds=None))
    # The settings of Miyato et al. (2017): one step, and equal weights for both losses.
    trainings = {
        "plain": [],
        "adversarial": [kr.AdvTrain(ball, attack="fgsm", objective="mixed")],
    }
    print(f"{'':11} | {'accuracy':>8} {'loss':>5} | under PGD-10: {'accuracy':>8} {'loss':>5}")
    for name, callbacks in trainings.items():
        model = make_model()
        model.fit(*train, epochs=10, batch_size=50, verbose=0, callbacks=callbacks)
        loss, accuracy = model.evaluate(*test, verbose=0)
        found = kr.attacks.PGD(num_steps=10).run(model, *test, ball, batch_size=1000)
        held, adv_loss = 1.0 - found.success.mean(), found.loss.mean()
        print(f"{name:11} | {accuracy:8.1%} {loss:5.2f} | {'':13} {held:8.1%} {adv_loss:5.2f}")


if __name__ == "__main__":
    main()
