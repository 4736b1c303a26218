"""Checkpoints, from which a killed evaluation resumes."""

import json
import pathlib
import time

import numpy as np

from keras_robust.atomic import write_arrays
from keras_robust.sealed import read_sealed
from keras_robust.sealed import sealed

SECONDS = 30.0  # The time between two saves during an attack.
_META = "meta"


class Checkpoint:
    """A file that always holds a complete state, or does not exist.

    Args:
        path: str, or `None` to save nothing.
        identity: dict that JSON can hold. A saved state is used only if its identity is equal.
        arrays: dict of arrays that must be equal as well, up to rounding.

    Attribute: `seconds_before`, the seconds that the evaluation had run when it saved its state.
    """

    def __init__(self, path, identity, arrays):
        self.path = None if path is None else pathlib.Path(path)
        # JSON turns tuples into lists. After a round trip the identity equals one read from a file.
        self._identity = json.loads(json.dumps(identity))
        self._fixed = {f"fixed_{name}": array for name, array in arrays.items()}
        # A monotonic clock, because the time of day may be set back during an evaluation.
        self._saved = self._start = time.monotonic()
        self.seconds_before = 0.0

    def load(self):
        """Returns the saved state and a dict of arrays, or `None` if there is no file.

        Raises:
            ValueError: if the file belongs to another evaluation, was changed, or is not a
                checkpoint.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            arrays = read_sealed(self.path)
            meta = json.loads(str(arrays.pop(_META)))
            identity, state = dict(meta["identity"]), meta["state"]
            seconds = float(meta["seconds"])
        # A damaged file may raise any error.
        except Exception as error:
            raise self.refusal(error) from error
        differing = [name for name, value in self._identity.items() if identity.get(name) != value]
        # Logits differ by rounding between devices, but not by more.
        for name, array in self._fixed.items():
            saved = arrays.pop(name, np.zeros(0))
            if saved.shape != array.shape or not np.allclose(saved, array, rtol=1e-3, atol=1e-3):
                differing.append(name.removeprefix("fixed_"))
        if differing:
            raise ValueError(
                f"The checkpoint {self.path} belongs to another evaluation: delete the file, or "
                f"give another path. Received: different {', '.join(differing)}"
            )
        self.seconds_before = seconds
        return state, arrays

    def refusal(self, error):
        """Returns the `ValueError` to raise if the file lacks what an evaluation needs."""
        return ValueError(
            f"Expected a checkpoint of `evaluate` at {self.path}: delete the file, or give "
            f"another path. Received: {type(error).__name__}: {error}"
        )

    @property
    def is_due(self):
        """Whether it is time to save."""
        return self.path is not None and time.monotonic() - self._saved >= SECONDS

    def save(self, state, arrays):
        """Replaces the file atomically, so that a reader never sees half of it."""
        if self.path is None:
            return
        seconds = self.seconds_before + time.monotonic() - self._start
        meta = {"identity": self._identity, "state": state, "seconds": seconds}
        meta = np.array(json.dumps(meta))
        write_arrays(self.path, sealed({_META: meta, **self._fixed, **arrays}))
        self._saved = time.monotonic()

    def remove(self):
        """Deletes the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
