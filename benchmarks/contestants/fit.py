"""Keras's `fit`, plain and with `AdvTrain`."""

import keras
import tensorflow as tf

import keras_robust as kr
from benchmarks.contestants import network


def versions():
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def run(spec, data, turn):
    """Trains with the options in `spec`.

    `attack` (`None` for plain `fit`, or a name), `num_steps`, `epsilon`, `objective`, `replays` of
    `Free`, `attack_dtype`; `policy` of the layers; `compile`, more arguments of `compile`;
    `accumulate`, batches for an optimizer step.
    """
    model = network.build(spec["size"], spec.get("policy"))
    accumulate = spec.get("accumulate")
    model.compile(
        keras.optimizers.Adam(1e-3, gradient_accumulation_steps=accumulate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **spec.get("compile", {}),
    )
    turns = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: turn.wait(), on_epoch_end=lambda epoch, logs: turn.done()
    )
    callbacks = [turns]
    if spec.get("attack"):
        attack = kr.attacks.get(spec["attack"])
        if spec["attack"] == "pgd":
            attack = attack.clone(num_steps=spec["num_steps"])
        callbacks.append(
            kr.AdvTrain(
                kr.Linf(spec["epsilon"]),
                attack=attack,
                objective=_objective(spec),
                attack_dtype=spec.get("attack_dtype"),
            )
        )
    batches = tf.data.Dataset.from_tensor_slices(data).batch(spec["batch_size"]).cache().prefetch(2)
    model.fit(batches, epochs=spec["epochs"], verbose=0, shuffle=False, callbacks=callbacks)


def _objective(spec):
    if spec.get("objective") == "free":
        return kr.objectives.Free(spec["replays"])
    return kr.objectives.get(spec.get("objective", "adversarial"))
