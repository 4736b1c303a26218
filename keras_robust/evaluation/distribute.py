"""An evaluation in several processes, on one machine or on many, by Ray."""

import contextlib
import functools
import importlib
import os
import pathlib
import tempfile

import keras

from keras_robust.attacks.attack_loss import check_counts
from keras_robust.attacks.data import to_arrays
from keras_robust.attacks.progress import is_shown
from keras_robust.evaluation.evaluate import evaluate
from keras_robust.evaluation.reports.report import RobustnessReport
from keras_robust.evaluation.runner import LISTENER
from keras_robust.evaluation.shard import Shard

_RETRIES = 10  # How often a shard may lose its process.
_INTERVAL = 1.0  # Seconds between two updates of the bar.


def distribute(
    model,
    data,
    *others,
    workers=2,
    address=None,
    threads=1,
    gpus=0,
    folder=None,
    verbose="auto",
    **arguments,
):
    """Evaluates a model in several processes, and returns one report.

    Every process evaluates a shard of the examples with a checkpoint of its own. If a process is
    killed, Ray starts another one, which goes on from the checkpoint. The report is that of
    `evaluate(..., shard="0/1")` in one process with as many threads, to the bit; see
    `RobustnessReport.merge`.

    Args:
        model: a `keras.Model` that is not of classes that only this process knows; the path of a
            `.keras` file or of a SavedModel, which every process reads; or a function without
            arguments that returns the model, for models of other kinds.
        data: `(x, y)` arrays, or a data set, as in `evaluate`.
        *others: the threat model and the attacks, as in `evaluate`.
        workers: int, the number of processes and of shards. Defaults to `2`.
        address: str, the address of a Ray cluster, `"auto"` for the one that this machine is a part
            of; all its machines need this package in the same version. `None` starts a cluster on
            this machine, for this call only. Defaults to `None`.
        threads: int, the threads of each process. Defaults to `1`.
        gpus: int, the GPUs of each process. Defaults to `0`.
        folder: str, the folder for the checkpoints, which all machines share; the same call goes on
            from there if this process was killed. `None` for one that is thrown away. Defaults to
            `None`.
        verbose: bool or `"auto"`, as in `evaluate`, whether to show a bar of the work of all
            processes. Defaults to `"auto"`.
        **arguments: more arguments of `evaluate`, but not `checkpoint` and `shard`.

    Returns:
        A `RobustnessReport`, whose seconds are those of all processes together.

    Raises:
        ImportError: if Ray is not installed; the extra `ray` installs it.
        ValueError: as `evaluate`, from the first process that fails; and for an `address` while
            this process is connected to Ray already.

    Example:

    >>> import keras_robust as kr
    >>> report = kr.evaluation.distribute("model.keras", (x, y), workers=16)  # doctest: +SKIP
    """
    check_counts(workers=workers, threads=threads)
    ray = _load_ray()
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        if ray.is_initialized():
            _check_no_address(address)
        else:
            local = {"num_cpus": workers * threads, "include_dashboard": False}
            ray.init(address or "local", log_to_driver=False, **({} if address else local))
            stack.callback(ray.shutdown)
        queue = importlib.import_module("ray.util.queue").Queue() if is_shown(verbose) else None
        options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": _RETRIES}
        task = ray.remote(_evaluate_shard).options(
            runtime_env={"env_vars": _variables(threads)}, **options
        )
        # A data set of TensorFlow cannot travel.
        data = to_arrays(data, arguments.get("num_examples"))
        # Stored once, not once for each process.
        shared = [ray.put(part) for part in (_portable(model), data, others, arguments)]
        paths = [_path(folder, index, workers) for index in range(workers)]
        found = [
            task.remote(*shared, str(Shard(index, workers)), path, queue)
            for index, path in enumerate(paths)
        ]
        _wait(ray, found, queue)
        report = RobustnessReport.merge(ray.get(found))
        # Only now nothing can fail any more.
        for path in paths:
            pathlib.Path(path).unlink(missing_ok=True)
    return report


def _check_no_address(address):
    if address is not None:
        raise ValueError(
            "This process is connected to Ray already, and uses that cluster. Leave `address` out, "
            f"or call ray.shutdown() before. Received: address={address!r}"
        )


def _load_ray():
    """Returns the module of Ray, or raises an ImportError that names the package."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            "`distribute` needs Ray. Install it with: pip install 'keras_robust[ray]'"
        ) from error


def _variables(threads):
    """Returns the environment of a process with so many threads, of this process's backend."""
    # The frameworks read these when they start, so each process needs them before its first import.
    xla = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    return {
        "KERAS_BACKEND": keras.backend.backend(),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {xla}".strip(),
    }


def _portable(model):
    """Returns a model as its processes take it: the bytes of a file, a path or a function."""
    if not isinstance(model, keras.Model):
        if not isinstance(model, (str, os.PathLike)) and not callable(model):
            raise ValueError(
                "Expected a keras.Model, the path of a saved model, or a function without "
                "arguments that returns a model. "
                f"Received: an object of type {type(model).__name__}"
            )
        return os.path.abspath(model) if isinstance(model, (str, os.PathLike)) else model
    # Bytes, because another machine may not see this disk.
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()


def _loaded(model):
    """Returns the model for what `_portable` returned."""
    if isinstance(model, bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.keras")
            path.write_bytes(model)
            return keras.models.load_model(path)
    if not isinstance(model, str):
        return model()
    if pathlib.Path(model).is_dir():
        return importlib.import_module("tensorflow").saved_model.load(model)
    return keras.models.load_model(model)


def _path(folder, index, count):
    # Every process has a checkpoint of its own, and numbers that differ have other files.
    return str(pathlib.Path(folder, f"shard_{index}_of_{count}.npz").absolute())


def _evaluate_shard(model, data, others, arguments, shard, path, queue):
    """Returns the report of a shard; runs in a process of its own."""
    listener = None if queue is None else functools.partial(_tell, queue, shard)
    # Ray may use the same process for another call later.
    token = LISTENER.set(listener)
    try:
        return evaluate(_loaded(model), data, *others, **arguments, shard=shard, checkpoint=path)
    finally:
        LISTENER.reset(token)


def _tell(queue, shard, share):
    queue.put((shard, share))


def _wait(ray, tasks, queue):
    """Waits until all tasks are done or one has failed, and shows a bar if there is a queue."""
    shares, left = {}, tasks
    bar = keras.utils.Progbar(100, unit_name="percent") if queue is not None else None
    while left:
        done, left = ray.wait(left, timeout=_INTERVAL)
        # Raises the error of a task that failed, before the others are done.
        ray.get(done)
        if bar is not None:
            shares.update(queue.get_nowait_batch(queue.qsize()))
            share = 1.0 if not left else sum(shares.values()) / len(tasks)
            bar.update(min(int(100 * share), 99 + (not left)), finalize=not left)
