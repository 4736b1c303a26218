"""Command line programs. `keras-robust-NAME --help` lists the flags of each.

From a checkout, `python -m apps.NAME` runs the same. The wheel installs this package under the name
`keras_robust_apps`, since many a project has a folder `apps`, which Python would import in its
place: so the imports in here are relative. It is no part of the package `keras_robust`, which
Python would import before what follows.

TensorFlow writes start-up lines to stderr while it is imported. They would bury the output of the
programs, so this package, which Python imports before any program in it, imports Keras and
TensorFlow, which Keras needs not on JAX, with those lines held back; `--verbosity=1` shows them.
`TF_CPP_MIN_LOG_LEVEL` alone does not: some come from static initialisers that run before TensorFlow
reads it.
"""

import contextlib
import os
import re
import sys
import tempfile


def is_verbose(argv):
    """Whether the command line `argv`, a list of strings, asks for `--verbosity` of 1 or more.

    absl parses the flags only after the imports, which is too late here.
    """
    return re.search(r" --?v(erbosity)?[= ][1-9]", " ".join(argv)) is not None


@contextlib.contextmanager
def held_back_stderr():
    """Drops what is written to file descriptor 2, by C++ code as well, unless the body raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


if not is_verbose(sys.argv):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with held_back_stderr():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
