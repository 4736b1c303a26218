import copy
import json

import pytest

import keras_robust as kr
from tests.support import refusals
from tests.support.told import BALL
from tests.support.told import X
from tests.support.told import Y
from tests.support.told import model


@pytest.fixture(scope="module")
def fields():
    report = kr.evaluate(model, (X, Y), BALL, "fgsm", shard="0/2")
    return json.loads(json.dumps(report.to_dict()))


def test_a_shard_is_read_back(fields):
    found = kr.RobustnessReport.from_dict(fields)
    assert found.shard.num_examples == 5 and len(found.shard.rows["y"]) == 3
    assert json.loads(json.dumps(found.to_dict())) == fields


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("index", 2, "report.shard.index to be below the number of shards 2. Received: .*=2"),
        ("index", -1, "report.shard.index to be an integer, at least 0. Received: .*=-1"),
        ("num_examples", 9, "such that the shard has 3 of them. Received: .*=9"),
        ("uses_gradients", [1], "one value for each of 2 attacks"),
        ("num_outside", [1, 0, 0], "one value for each of 2 attacks"),
        ("sizes", [[0.1, 0.1]], r"report.shard.sizes\[0\] to be a list of 5"),
        ("sizes", [[None, 1, 1, 1, 1]], "numbers, of which the fourth may be None"),
        ("evaluation", {"data": 3}, "report.shard.evaluation.data to be text. Received: .*=3"),
        ("evaluation", {}, "report.shard.evaluation to be a digest of each setting"),
        ("robust", [0, 0, 0], "report.robust_accuracy to be 0.0 as in report.shard.rows"),
        ("y", [0, 1], "report.shard.rows.y to be 3 values"),
        ("y", [0, 1, 2], "report.shard.rows.y to be below 2. Received: .*=2"),
        ("robust", [0, 1, 2], r"report.shard.rows.robust\[2\] to be an integer, at least 0, at"),
        ("distances", [0, -1, 2], r"report.shard.rows.distances\[1\] to be a number, at least 0"),
        ("distances", ["nan", 1, 2], r"report.shard.rows.distances\[0\] to be a number"),
    ],
)
def test_what_does_not_fit_is_refused(fields, name, value, message):
    changed = copy.deepcopy(fields)
    place = changed["shard"]["rows"] if name in changed["shard"]["rows"] else changed["shard"]
    place[name] = value
    with refusals.assert_refused(message):
        kr.RobustnessReport.from_dict(changed)
