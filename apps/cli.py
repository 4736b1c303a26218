"""Start and end of every program: absl flags, and an error line instead of a traceback."""

import os
import pathlib
import sys

from absl import app
from absl import flags
from absl import logging


def run(main):
    """Parses the command line, calls `main`, and exits.

    The exit code is 0 if `main` returns `None`, and 130 after Ctrl-C. It is 1 for a wrong flag, and
    for a `ValueError` or an `OSError`, which wrong input, missing files and full disks raise. In
    these cases the program prints one line, `error: ...`, to stderr; `--verbosity=1` also shows the
    traceback. Any other exception is a bug and keeps its traceback.

    Args:
        main: function of one argument, the list with the name of the program that absl passes.
            `--help` shows the flags and the docstring of the module that defines it.
    """
    try:
        app.run(main, flags_parser=lambda argv: _parse_flags(argv, main.__module__))
    except KeyboardInterrupt:
        _fail("interrupted", code=130)
    except BrokenPipeError:
        # The reader of the output, for example `head`, has closed the pipe. Redirect stdout, or the
        # flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (ValueError, OSError, flags.Error) as error:
        if logging.get_verbosity() >= logging.DEBUG:
            logging.exception("The traceback of the error:")
        _fail(str(error) or type(error).__name__, code=1)


def make_folder(path):
    """Makes the folder for results and returns its path, or `None` for `None`.

    Programs call it before hours of work, so that a folder that cannot be written fails first.

    Raises:
        OSError: if the folder cannot be made or written to.
    """
    if path is None:
        return None
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()
    return folder


def _parse_flags(argv, module):
    """Parses `argv`, which may only hold flags. `--help` describes `module` and exits with 0."""
    # absl shows the docstring of the main module, which is empty for an installed command.
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(argv[0], flag)
    try:
        leftover = flags.FLAGS(argv)[1:]
    except SystemExit:
        # absl exits with 1 after --help, which is not an error.
        sys.exit(0)
    if leftover:
        raise ValueError(f"Expected flags only, --name=value. Received: {' '.join(leftover)}")
    # absl changes a verbosity that was not set to INFO, so set it to its default WARNING.
    logging.set_verbosity(logging.get_verbosity())
    return argv[:1]


def _fail(message, code):
    """Prints `message` on one line and exits with `code`."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
