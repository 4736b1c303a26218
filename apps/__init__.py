"""Command line programs. `keras-robust-NAME --help` lists the flags of each program.

From a checkout, `python -m apps.NAME` runs the same program. The wheel installs this package as
`keras_robust_apps`, because many projects have a folder `apps`, which Python would import instead.
The imports in this package are therefore relative. The package is not a part of `keras_robust`,
because Python would then import `keras_robust`, and with it TensorFlow, before the code below.

TensorFlow writes start-up lines to stderr during its import, and these lines would hide the output
of the programs. This package therefore imports Keras and TensorFlow first and drops those lines;
`--verbosity=1` shows them. `TF_CPP_MIN_LOG_LEVEL` alone is not enough: some lines come from static
initializers that run before TensorFlow reads it.
"""

import contextlib
import os
import re
import sys
import tempfile


def is_verbose(argv):
    """Returns whether `argv`, a list of strings, contains `--verbosity` of 1 or more.

    absl parses the flags only after the imports, which is too late for this package.
    """
    return re.search(r" --?v(erbosity)?[= ][1-9]", " ".join(argv)) is not None


@contextlib.contextmanager
def held_back_stderr():
    """Context that drops all output to stderr, also from C++ code, unless its body raises."""
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
