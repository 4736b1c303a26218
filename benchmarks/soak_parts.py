"""The trainings of `benchmarks.soak`, and what is wrong with their notes."""

import gc
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_robust as kr

STEPS_PER_EPOCH = 100
BATCH_SIZE = 32
_SHAPE = (16, 16, 1)
BALL = kr.Linf(0.05)
# On JAX two for each size of a batch: one finds the variables, one is compiled.
MOST_TRACES = 1 if keras.backend.backend() == "tensorflow" else 4


class Counting(kr.objectives.Adversarial):
    """The usual objective, which counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def get_config(self):
        return {}

    def loss(self, clean, adversarial):
        self.traces += 1
        return super().loss(clean, adversarial)


class Notes(keras.callbacks.Callback):
    """Notes memory, traces and the median seconds of a step after every epoch."""

    def __init__(self, objective):
        super().__init__()
        self.objective, self.rows, self._seconds = objective, [], []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._seconds.append(time.perf_counter() - self._start)

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append(
            {
                "steps": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
                "megabytes": round(resident_megabytes(), 1),
                "traces": self.objective.traces,
                "milliseconds": round(1000.0 * statistics.median(self._seconds), 3),
            }
        )
        self._seconds = []


def resident_megabytes():
    """Returns the resident memory of this process, after Python has cleaned up."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def build():
    """Returns a compiled network, as small as one with a convolution and BatchNorm can be."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(_SHAPE),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def data(batches, batch_size=BATCH_SIZE):
    """Returns images and labels for so many batches, the last of which is short."""
    rng = np.random.default_rng(0)
    count = batches * batch_size - batch_size // 2
    y = rng.integers(0, 3, size=count)
    x = rng.uniform(size=(count, *_SHAPE)).astype("float32")
    return (x + np.linspace(0, 1, 3)[y][:, None, None, None].astype("float32")) / 2, y


def train(model, steps, steps_per_epoch=STEPS_PER_EPOCH):
    """Takes so many adversarial steps in one `fit`, and returns the notes of every epoch."""
    x, y = data(steps_per_epoch)
    objective = Counting()
    notes = Notes(objective)
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=steps // steps_per_epoch,
        verbose=0,
        callbacks=[
            kr.AdvTrain(BALL, attack=kr.attacks.PGD(num_steps=3), objective=objective),
            kr.RobustValidation((x[:64], y[:64]), BALL, attack=kr.attacks.PGD(num_steps=3)),
            notes,
        ],
    )
    return notes.rows


def repeat(function, count):
    """Calls a function so many times, and returns memory and seconds after each call."""
    rows = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
        rows.append({"megabytes": round(resident_megabytes(), 1), "seconds": round(seconds, 3)})
    return rows


def growth(values):
    """Returns the median of the last quarter over that of the second: the first one warms up."""
    quarter = max(1, len(values) // 4)
    second, last = values[quarter : 2 * quarter], values[-quarter:]
    return statistics.median(last) / statistics.median(second)


def problems(steps, evaluations):
    """Returns what is wrong with the notes of a training and of evaluations, a list of str."""
    found = []
    traces = {row["traces"] for row in steps}
    if len(traces) > 1 or max(traces) > MOST_TRACES:
        found.append(f"the step was traced {steps[-1]['traces']} times")
    for name, rows, pace in (
        ("training", steps, "milliseconds"),
        ("evaluations", evaluations, "seconds"),
    ):
        for column, limit in (("megabytes", 1.03), (pace, 1.5)):
            ratio = growth([row[column] for row in rows])
            if ratio > limit:
                found.append(f"{column} of the {name} grew by a factor of {ratio:.2f}")
    return found


def slope(rows):
    """Returns the megabytes that a call leaves behind, over the second half of the calls."""
    half = rows[len(rows) // 2 :]
    return round((half[-1]["megabytes"] - half[0]["megabytes"]) / (len(half) - 1), 2)


def train_plain(model):
    """Traces a plain step anew, and takes ten."""
    x, y = data(10)
    model.make_train_function(force=True)
    model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)
