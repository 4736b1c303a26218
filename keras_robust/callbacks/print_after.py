"""What is said of work that takes long, while it does."""

import contextlib
import threading


@contextlib.contextmanager
def print_after(seconds, text):
    """Prints `text` if what is within takes longer than that."""
    timer = threading.Timer(seconds, print, (text,), {"flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
