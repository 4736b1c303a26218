"""Messages about code that takes long."""

import contextlib
import threading


@contextlib.contextmanager
def print_after(seconds, text):
    """Prints `text` if the code inside the context takes longer than `seconds`."""
    timer = threading.Timer(seconds, print, (text,), {"flush": True})
    # A daemon, so that a program that exits early does not wait for the message.
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
