"""Worker process that holds the model, and turns the body of a request into that of an answer.

The server itself only moves bytes. Only the worker decodes JSON, so that a hostile request cannot
block or crash the server.
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
    """Loads a SavedModel into this process, which ends together with the server."""
    global _loaded
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    # A lower priority than the server's, so that health requests are answered in time.
    os.nice(5)
    # Keep the loaded object: its signatures alone do not keep the variables alive.
    _loaded = tf.saved_model.load(path)


def is_loaded():
    """Returns whether the model is loaded."""
    return _loaded is not None


def answer(body):
    """Returns an HTTP status and a body: JSON for 200, an error message otherwise."""
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
