"""Files that are there as a whole or not at all."""

import pathlib


def write_text(path, text):
    """Writes a text file in UTF-8; a reader never sees half of it, a failure leaves the old one."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
