import pytest

from keras_robust.evaluation import kinds

ANY = object()
CASES = [
    (kinds.number(0, 1), [0, 0.5, 1], [-0.1, 1.1, "1", None, True, float("nan"), float("inf")]),
    (kinds.number(), [-1e9, 3], [float("-inf"), []]),
    (kinds.integer(2), [2, 99], [1, 2.0, False]),
    (kinds.text, ["", "a"], [1, None]),
    (kinds.optional(kinds.text), ["a", None], [1]),
    (kinds.list_of(kinds.text), [[], ["a"]], ["a", [1], ("a",)]),
    (kinds.list_of(kinds.text, 2), [["a", "b"]], [["a"], []]),
    (kinds.dict_of(kinds.integer()), [{}, {"a": 1}], [[], {"a": "b"}, {1: 1}]),
    (kinds.record(a=kinds.text), [{"a": "b"}], [{}, {"a": "b", "c": 1}, {"a": 1}, []]),
    (kinds.json_value, [None, True, 1, 1.5, "a", [{"a": [1]}]], [ANY, [ANY], {"a": float("nan")}]),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), CASES)
def test_each_kind_accepts_its_own_and_nothing_else(kind, right, wrong):
    for value in right:
        kind(value, "here")
    for value in wrong:
        with pytest.raises(ValueError, match="here.*Received"):
            kind(value, "here")


def test_the_message_names_the_place():
    kind = kinds.record(a=kinds.list_of(kinds.dict_of(kinds.number(0))))
    with pytest.raises(ValueError, match=r"Expected report.a\[1\].b to be a number, at least 0. "):
        kind({"a": [{}, {"b": -1}]}, "report")


def test_a_file_that_is_no_json(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("import keras")
    with pytest.raises(ValueError, match="Expected a report, a JSON file: .*report.json"):
        kinds.read_json(path)
    path.write_text('{"a": [1]}')
    assert kinds.read_json(path) == {"a": [1]}
