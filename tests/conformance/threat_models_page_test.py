"""The code of `docs/threat_models.md` runs as it stands, in the order of the page."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "threat_models.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_blocks_are_short():
    sizes = [len(block.strip().splitlines()) for block in BLOCKS[1:]]
    assert len(sizes) == 4 and max(sizes) <= 6


@pytest.mark.exhaustive
def test_the_blocks_run(capsys):
    names = {}
    for block in BLOCKS:
        exec(block, names)
    text = capsys.readouterr().out
    for title in (
        "Patch, 2 x 2 pixels",
        "Patch, at a fixed place",
        "Affine, rotation 30",
        "Universal (Linf",
    ):
        assert text.count(title) == 1
    assert text.count("robust (worst case)") == 4
