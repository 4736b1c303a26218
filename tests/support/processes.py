"""Adversarial training in several processes, or in one; run as a program.

`python -m tests.support.processes FOLDER` trains three times: as a whole, until a kill, and on from
the backups in the folder; it prints what the processes of the first and of the last training say.
It is to run in a network of its own, since what joins the processes listens on every address. With
the index of a process, and the folder and the epoch of the kill, it is one of them.
"""

import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

COUNT = 2
ROWS, EPOCHS = 8, 2
_ADDRESS = "127.0.0.1:8476"
# Of <linux/sockios.h> and <linux/if.h>.
_SET_FLAGS, _GET_FLAGS, _UP = 0x8914, 0x8913, 1


def train(index=0, count=1, folder=None, kill_at=None):
    """Returns the loss of every epoch and the weights, each process feeding its part of a batch.

    With a folder it keeps backups there, and with `kill_at` it is killed before that epoch.
    """
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

    def kill(epoch, logs):
        if epoch == kill_at:
            while len(list(pathlib.Path(folder).glob("backup_?.npz"))) < count:
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)

    keras.utils.set_random_seed(0)
    model = linear_fit.make_model([keras.layers.Dropout(0.2)])
    attack = kr.attacks.PGD(num_steps=2)
    callbacks = [
        kr.AdvTrain(kr.Linf(0.1), attack=attack, objective="trades"),
        keras.callbacks.LambdaCallback(on_epoch_begin=kill),
    ]
    if folder is not None:
        callbacks.append(kr.callbacks.AtomicBackup(f"{folder}/backup_{index}.npz"))
    history = model.fit(
        x[mine],
        y[mine],
        batch_size=part,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    weights = [np.asarray(keras.ops.convert_to_numpy(w)).tolist() for w in model.trainable_weights]
    return {"loss": history.history["loss"], "weights": weights}


def _join(index, *arguments):
    import jax
    import keras

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    addresses = ",".join([_ADDRESS] * COUNT)
    keras.distribution.initialize(addresses, num_processes=COUNT, process_id=index)
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    sys.stdout.write(json.dumps(train(index, COUNT, *arguments)) + "\n")


def _raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(connection, _GET_FLAGS, request))[1]
        fcntl.ioctl(connection, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _start_all(*arguments, ends=True):
    """Returns the last line of every process; each must end well, or else by a signal."""
    command = [sys.executable, "-m", "tests.support.processes"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": ""}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # As in the process of the tests.
    workers = [
        subprocess.Popen(
            [*command, str(index), *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )
        for index in range(COUNT)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    returned = [worker.returncode for worker in workers]
    # JAX aborts a process that has lost another before it is killed itself.
    if any(code != 0 if ends else code >= 0 for code in returned):
        raise RuntimeError(f"The processes returned {returned} and said {outputs}")
    return [(output.splitlines() or [""])[-1] for output in outputs]


def _kill_and_go_on(folder):
    _raise_loopback()
    whole = _start_all()
    _start_all(folder, "1", ends=False)
    sys.stdout.write("\n".join(whole + _start_all(folder)) + "\n")


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    if first.isdigit():
        _join(int(first), *others[:1], *map(int, others[1:]))
    else:
        _kill_and_go_on(first)
