"""A process that holds the model, and turns the body of a request into that of an answer.

The server itself only moves bytes: whatever JSON does to a process, it does it here.
"""

import logging
import multiprocessing
import os
import threading
from multiprocessing import connection

import rest
import tensorflow as tf

_loaded = None


def load(path):
    """Loads a SavedModel; the process ends with the server, and leaves it the processor first."""
    global _loaded
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    os.nice(5)
    # A signature does not keep the variables alive; the object does.
    _loaded = tf.saved_model.load(path)


def is_loaded():
    """Whether there is a model."""
    return _loaded is not None


def answer(body):
    """Returns a status and the bytes of an answer: JSON for 200, else what is wrong."""
    try:
        return 200, rest.encode(rest.answer(_loaded.signatures, rest.decode(body)))
    except ValueError as error:
        return 400, str(error).encode(errors="replace")
    except MemoryError:
        return 400, b"Expected a smaller request"
    except Exception:
        logging.exception("The model failed")
        return 500, b"The model failed"


def _end_with_the_server():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
