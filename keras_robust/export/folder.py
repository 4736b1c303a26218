"""Folders that are there as a whole or not at all."""

import contextlib
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def new_folder(path):
    """Gives a hidden folder to fill, which takes the name `path` once all went well.

    Args:
        path: str, the folder to make; its parents are made too. Must not exist.

    Raises:
        FileExistsError: if `path` exists.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(
            "A served version is never changed: give a new folder, such as the next number. "
            f"Received: path={str(path)!r}, which exists"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A poller that watches the parent for version numbers does not see a hidden name.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial.chmod(0o755)
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
