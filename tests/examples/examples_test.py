"""The examples run like a user runs them, and print the expected results."""

import re
import runpy

import pytest

from tests.support import backends
from tests.support import fork_server

ROOT = fork_server.ROOT


def _main(path):
    runpy.run_path(path, run_name="__main__")


def rows(name):
    """Returns the numbers in each row of the table that an example prints."""
    done = fork_server.call(_main, f"examples/{name}.py")
    assert done.code == 0, done.stderr
    _, *table = done.stdout.splitlines()
    return {
        row.split("|")[0].strip(): [float(number) for number in re.findall(r"\d+\.\d+", row)]
        for row in table
    }


@pytest.mark.exhaustive
def test_text():
    table = rows("text")
    (accuracy, loss, _, adv_loss), plain = table["adversarial"], table["plain"]
    # Other random numbers on JAX.
    assert accuracy > plain[0] - (6.0 if backends.IS_JAX else 4.0)
    assert loss < 0.8 * plain[1]
    assert adv_loss < 0.6 * plain[3]


@pytest.mark.exhaustive
def test_tabular():
    table = rows("tabular")
    (clean, robust), (plain_clean, plain_robust) = table["adversarial"], table["plain"]
    assert min(clean, plain_clean) > 94.0
    assert robust > plain_robust + 3.0


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_every_example_says_how_to_run_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.count(f"\n    python examples/{path.name}\n") == 1
