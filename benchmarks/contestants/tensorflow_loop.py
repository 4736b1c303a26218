"""The same work as `AdvTrain`, as one would write it by hand: one compiled, unrolled step."""

import keras
import tensorflow as tf

from benchmarks.contestants import network


def versions():
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


def run(spec, data, turn):
    """Trains; with `only="input gradient"`, computes only the pass of which an attack is made."""
    model = network.build(spec["size"], spec.get("policy"))
    step = _input_gradient(model) if spec.get("only") else _step(model, spec)
    network.train(step, data, spec, turn)


def _input_gradient(model):
    per_example = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")

    @tf.function
    def gradient(x, y):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = per_example(y, model(x, training=False))
        return tape.gradient(value, x)

    return gradient


def _step(model, spec):
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]
    step_size = 2.5 * epsilon / num_steps
    gradient_of = _input_gradient(model).python_function
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = keras.metrics.Mean()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    adv_accuracy = keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def step(x, y):
        x_adv = tf.clip_by_value(x + tf.random.uniform(tf.shape(x), -epsilon, epsilon), 0.0, 1.0)
        for _ in range(num_steps):
            x_adv = x_adv + step_size * tf.sign(gradient_of(x_adv, y))
            x_adv = tf.clip_by_value(x_adv, x - epsilon, x + epsilon)
            x_adv = tf.clip_by_value(x_adv, 0.0, 1.0)
        with tf.GradientTape() as tape:
            outputs = model(x_adv, training=True)
            value = loss(y, outputs)
        gradients = tape.gradient(value, model.trainable_variables)
        clean = model(x, training=False)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.update_state(value)
        accuracy.update_state(y, clean)
        adv_accuracy.update_state(y, outputs)

    return step
