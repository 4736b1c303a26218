"""Adversarial training in several processes, or in one; run as a program.

`python -m tests.support.processes` starts the processes in a network of their own, since what joins
them listens on every address, and prints what the first of them says; with a number of processes
and an index it is one of them.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys

COUNT = 2
ROWS, EPOCHS = 8, 2
_ADDRESS = "127.0.0.1:8476"
# Of <linux/sockios.h> and <linux/if.h>.
_SET_FLAGS, _GET_FLAGS, _UP = 0x8914, 0x8913, 1


def train(index=0, count=1):
    """Returns the loss of every epoch and the weights, each process feeding its part of a batch."""
    import keras
    import numpy as np

    import keras_robust as kr
    from tests.support import linear_fit

    x, y = linear_fit.data(4 * ROWS)
    part = ROWS // count
    mine = np.concatenate(
        [
            np.arange(start + index * part, start + (index + 1) * part)
            for start in range(0, 32, ROWS)
        ]
    )
    model = linear_fit.make_model()
    callback = kr.AdvTrain(kr.Linf(0.1), attack=kr.attacks.PGD(num_steps=2), objective="trades")
    history = model.fit(
        x[mine],
        y[mine],
        batch_size=part,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    weights = [np.asarray(keras.ops.convert_to_numpy(w)).tolist() for w in model.trainable_weights]
    return {"loss": history.history["loss"], "weights": weights}


def _join(index, count):
    import jax
    import keras

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    addresses = ",".join([_ADDRESS] * count)
    keras.distribution.initialize(addresses, num_processes=count, process_id=index)
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    sys.stdout.write(json.dumps(train(index, count)) + "\n")


def _raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(connection, _GET_FLAGS, request))[1]
        fcntl.ioctl(connection, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _start_all():
    _raise_loopback()
    command = [sys.executable, "-m", "tests.support.processes", str(COUNT)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": ""}
    workers = [
        subprocess.Popen([*command, str(index)], env=environment, stdout=subprocess.PIPE, text=True)
        for index in range(COUNT)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    sys.stdout.write("\n".join(output.strip().splitlines()[-1] for output in outputs) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _start_all()
    else:
        _join(int(sys.argv[2]), int(sys.argv[1]))
