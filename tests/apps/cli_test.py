import os
import pathlib
import signal
import subprocess
import sys

import pytest

import apps
from apps import cli

_ROOT = pathlib.Path(__file__).parents[2]

PROGRAMS = sorted(
    path for path in (_ROOT / "apps").glob("*.py") if "def run_main" in path.read_text("utf-8")
)

_PROGRAM = '''"""Does what --what says."""

import time

from absl import flags
from absl import logging

from apps import cli

_WHAT = flags.DEFINE_string("what", "nothing", "What to do.")
_COUNT = flags.DEFINE_integer("count", 1, "How many.", lower_bound=1)


def main(_):
    print("started", flush=True)
    logging.info("Information for developers.")
    if _WHAT.value == "compute":
        import tensorflow as tf

        # The compiler is a part of TensorFlow that logs after the import.
        square = tf.function(tf.square, jit_compile=True)
        print(int(square(_COUNT.value)))
    elif _WHAT.value == "wait":
        time.sleep(60)
    elif _WHAT.value != "nothing":
        raise {"value": ValueError, "os": OSError, "bug": KeyError}[_WHAT.value]("first\\n  second")


def run_main():
    cli.run(main)


if __name__ == "__main__":
    run_main()
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Returns shell variables with which `program` is a module, and Keras is the real one."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(_PROGRAM)
    ours = ("TF_CPP_MIN_LOG_LEVEL", "PYTHONUNBUFFERED")
    variables = {name: os.environ[name] for name in os.environ if name not in ours}
    return {**variables, "PYTHONPATH": f"{folder}{os.pathsep}{_ROOT}"}


@pytest.fixture(scope="module")
def quick_environment(environment, tmp_path_factory):
    """The same with empty modules for Keras and TensorFlow, which take seconds to import."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "keras.py").touch()
    (folder / "tensorflow.py").touch()
    return {**environment, "PYTHONPATH": f"{folder}{os.pathsep}{environment['PYTHONPATH']}"}


def _run(environment, *arguments, start=("-m", "program")):
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


@pytest.mark.exhaustive
def test_no_start_up_lines(environment):
    done = _run(environment, "--what=compute", "--count=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n9\n", "")


@pytest.mark.exhaustive
def test_verbosity_shows_start_up_lines(environment):
    done = _run(environment, "--what=compute", "--count=3", "--verbosity=1")
    assert (done.returncode, done.stdout) == (0, "started\n9\n")
    assert "TensorFlow binary is optimized" in done.stderr
    assert "Information for developers." in done.stderr


@pytest.mark.parametrize("what", ["value", "os"])
def test_user_errors_are_one_line(quick_environment, what):
    done = _run(quick_environment, f"--what={what}")
    assert (done.returncode, done.stdout) == (1, "started\n")
    assert done.stderr == "error: first second\n"


def test_verbosity_shows_the_traceback(quick_environment):
    done = _run(quick_environment, "--what=value", "-v", "1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("error: first second\n")


def test_bugs_keep_their_traceback(quick_environment):
    done = _run(quick_environment, "--what=bug")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "KeyError" in done.stderr


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--amount=1", "Unknown command line flag 'amount'"),
        ("--count=0", "flag --count=0: 0 is not a positive integer"),
        ("--count=many", "flag --count=many: invalid literal for int() with base 10: 'many'"),
        ("value", "Expected flags only, --name=value. Received: value"),
    ],
)
def test_wrong_flags_are_one_line(quick_environment, argument, message):
    done = _run(quick_environment, argument)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("start", [("-m", "program"), ("-c", "import program; program.run_main()")])
def test_help_describes_the_program_however_it_was_started(quick_environment, start):
    done = _run(quick_environment, "--help", start=start)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Does what --what says.")
    assert "--count: How many." in done.stdout


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [path.stem for path in PROGRAMS])
def test_a_real_program_starts_in_silence(environment, name):
    # Other tests fork programs from a process that has imported what they need.
    done = _run(environment, "--help", start=("-m", f"apps.{name}"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") > 10


def test_interruption(quick_environment):
    command = [sys.executable, "-m", "program", "--what=wait"]
    with subprocess.Popen(
        command, env=quick_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=180)
    assert (process.returncode, stderr) == (130, "error: interrupted\n")


def test_a_closed_pipe_is_not_an_error(quick_environment):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(
        command, env=quick_environment, stdout=write_end, stderr=subprocess.PIPE, timeout=180
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_failing_imports_show_what_was_held_back(quick_environment, tmp_path):
    (tmp_path / "keras.py").write_text("import os; os.write(2, b'a clue\\n'); raise ImportError\n")
    path = f"{tmp_path}{os.pathsep}{quick_environment['PYTHONPATH']}"
    done = _run({**quick_environment, "PYTHONPATH": path})
    assert done.returncode == 1
    assert done.stderr.startswith("a clue\nTraceback (most recent call last)")


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ("--verbosity=1", True),
        ("--verbosity 2 --seed=0", True),
        ("-v=1", True),
        ("--v 1", True),
        ("--verbosity=0", False),
        ("--verbosity=-1", False),
        ("--seed=1", False),
        ("", False),
    ],
)
def test_is_verbose(arguments, expected):
    assert apps.is_verbose(["program", *arguments.split()]) is expected


def test_folders_for_results_are_made_and_tried_first(tmp_path):
    folder = cli.make_folder(str(tmp_path / "runs" / "first"))
    assert folder.is_dir() and not any(folder.iterdir())
    assert cli.make_folder(folder) == folder and cli.make_folder(None) is None
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        cli.make_folder(tmp_path / "file" / "first")
    assert len(list(tmp_path.rglob("*"))) == 3
