"""A shorter form of `benchmarks.soak`: memory, traces and pace of a long training."""

import pytest

from benchmarks import soak_parts as soak


@pytest.mark.exhaustive
def test_two_hundred_steps_keep_one_trace_their_memory_and_their_pace():
    model = soak.build()
    soak.train(model, 20, 10)  # Whatever grows once has grown by then.
    rows = soak.train(model, 200, 10)
    assert [row["steps"] for row in rows] == list(range(30, 221, 10))
    traces = {row["traces"] for row in rows}
    assert len(traces) == 1 and 1 <= min(traces) <= soak.MOST_TRACES
    assert rows[-1]["megabytes"] - rows[4]["megabytes"] < 8.0
    # Other processes may take the machine for a while: most epochs are at the pace of the first.
    assert soak.growth([row["milliseconds"] for row in rows]) < 3.0


def _rows(**columns):
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


FLAT = [100.0] * 8


def test_what_grows_is_found():
    good = _rows(steps=range(8), megabytes=FLAT, traces=[1] * 8, milliseconds=FLAT)
    calls = _rows(megabytes=FLAT, seconds=FLAT)
    assert soak.problems(good, calls) == []
    growing = [100.0 + 2.0 * index for index in range(8)]
    slower = [100.0 * 1.2**index for index in range(8)]
    for rows, word in (
        (_rows(steps=range(8), megabytes=growing, traces=[1] * 8, milliseconds=FLAT), "megabytes"),
        (_rows(steps=range(8), megabytes=FLAT, traces=[1] * 8, milliseconds=slower), "millisec"),
        (_rows(steps=range(8), megabytes=FLAT, traces=[*[1] * 7, 2], milliseconds=FLAT), "traced"),
    ):
        (problem,) = soak.problems(rows, calls)
        assert word in problem
    (problem,) = soak.problems(good, _rows(megabytes=growing, seconds=FLAT))
    assert "megabytes of the evaluations" in problem
