import pytest

from keras_robust.evaluation.reports import json_types
from tests.support import refusals

ANY = object()
CASES = [
    (
        json_types.number(0, 1),
        [0, 0.5, 1],
        [-0.1, 1.1, "1", None, True, float("nan"), float("inf")],
    ),
    (json_types.number(), [-1e9, 3], [float("-inf"), []]),
    (json_types.integer(2), [2, 99], [1, 2.0, False]),
    (json_types.text, ["", "a"], [1, None]),
    (json_types.optional(json_types.text), ["a", None], [1]),
    (json_types.list_of(json_types.text), [[], ["a"]], ["a", [1], ("a",)]),
    (json_types.list_of(json_types.text, 2), [["a", "b"]], [["a"], []]),
    (json_types.dict_of(json_types.integer()), [{}, {"a": 1}], [[], {"a": "b"}, {1: 1}]),
    (json_types.record(a=json_types.text), [{"a": "b"}], [{}, {"a": "b", "c": 1}, {"a": 1}, []]),
    (
        json_types.json_value,
        [None, True, 1, 1.5, "a", [{"a": [1]}]],
        [ANY, [ANY], {"a": float("nan")}],
    ),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), CASES)
def test_each_kind_accepts_its_own_and_nothing_else(kind, right, wrong):
    for value in right:
        kind(value, "here")
    for value in wrong:
        with pytest.raises(ValueError, match="here.*Received"):
            kind(value, "here")


def test_the_message_names_the_place():
    kind = json_types.record(a=json_types.list_of(json_types.dict_of(json_types.number(0))))
    with refusals.assert_refused(r"Expected report.a\[1\].b to be a number, at least 0. "):
        kind({"a": [{}, {"b": -1}]}, "report")


def test_a_file_that_is_no_json(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("import keras")
    with pytest.raises(ValueError, match="Expected a report, a JSON file: .*report.json"):
        json_types.read_json(path)
    path.write_text('{"a": [1]}')
    assert json_types.read_json(path) == {"a": [1]}
