"""What every test starts from: quiet frameworks, no GPU surprises, the same random numbers."""

import gc
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Must be said before JAX starts: two devices, for the tests of distribution; and another generator
# of code for the CPU, which compiles in 60% of the time, where code need not be that of users.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_cpu_use_fusion_emitters="
    + ("true" if "KERAS_ROBUST_TEST_OPTIMIZED" in os.environ else "false"),
)

import keras
import numpy as np
import pytest

from tests.support import backends
from tests.support import devices
from tests.support import groups

IS_JAX = backends.IS_JAX
# A shell without job control starts background jobs with SIGINT ignored, and the processes that
# they start inherit that. The tests of Ctrl-C need the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The files of the other backend cannot be imported on this one, or say nothing of it.
_OTHER = "tensorflow" if IS_JAX else "jax"
collect_ignore_glob = [f"backend/{_OTHER}/*", f"training/{_OTHER}_*"]

# Two devices, for the tests of distribution; must be asked for before TensorFlow starts.
devices.split(2)

backends.optimize_less()

if not IS_JAX:
    backends.share_one_stack()
    from keras_robust.backend.tensorflow import loops

    # Tracing is most of the time of these tests. The numbers are the same, as the tests of
    # `repeat` say, which set it back to what users have.
    UNROLL = loops._UNROLL
    loops._UNROLL = 2


def pytest_collection_modifyitems(items):
    groups.sort(items)


def pytest_collection_finish():
    # The modules and the tests stay to the end: the garbage collector need not search them.
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    return groups.Scheduler(config, log)


@pytest.fixture(autouse=True)
def _fixed_seed(request):
    keras.utils.set_random_seed(0)
    # Otherwise the numbers that a test draws would depend on which tests ran before it.
    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = np.random.default_rng(1).bit_generator.state


@pytest.fixture
def optimized_code():
    """Has XLA optimize, for tests that compute longer than they compile."""
    if not IS_JAX:
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _let_go_of_graphs():
    yield
    backends.let_go_of_graphs()


@pytest.fixture
def search_alone(monkeypatch):
    """Leaves out the way back to the boundary, behind what a search has found by itself."""
    from keras_robust.attacks.minimum_norm import minimum_norm_attack

    monkeypatch.setattr(
        minimum_norm_attack, "to_boundary", lambda problem, point, **attack_loss: point
    )
    monkeypatch.setattr(minimum_norm_attack, "QUERIES", 0)
