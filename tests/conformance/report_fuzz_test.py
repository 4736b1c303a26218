"""Reports and certificates from strangers: refused with a `ValueError`, or of use everywhere."""

import copy
import io
import json

import hypothesis
import pytest
import rich.console
from hypothesis import strategies as st

import keras_robust as kr
from keras_robust.evaluation.reports.characters import HIDDEN
from keras_robust.export.model_card import write_model_card
from tests.certification import certificate_report_test as certificates
from tests.export import manifest_test
from tests.support import refusals
from tests.support import reports
from tests.support import tiers

PLAIN = {
    kr.RobustnessReport: json.loads(json.dumps(reports.make_with_proofs().to_dict())),
    kr.CertificateReport: json.loads(json.dumps(certificates.make().to_dict())),
}
TEXTS = ["[/x]", "[red]a", "$\\frac$", "<b>&", "`|*_", "a\nb", "\x1b[2J", "\u202e", "\ud800", ""]
SIZES = [0, 1, -1, 2, 5e-324, 1e-30, 3e38, 1e308, 10**400, 2**63, True, float("nan"), float("inf")]
LEAVES = st.one_of(
    st.none(),
    st.sampled_from(TEXTS),
    st.text(max_size=5),
    st.sampled_from(SIZES),
    st.integers(),
    st.floats(0, 1),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value, path=()):
    """The path of every part of a structure."""
    if path:
        yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield from _places(item, (*path, key))


# Where nearly any text will do, so that some files are accepted.
FREE = {
    "advice",
    "attack",
    "class_name",
    "config",
    "name",
    "settings",
    "suite",
    "versions",
    "warnings",
}


@st.composite
def changed(draw, cls):
    """What a file of the class holds, with up to three parts replaced, doubled or left out."""
    found = copy.deepcopy(PLAIN[cls])
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        places = sorted(_places(found), key=repr)
        free = [path for path in places if FREE.intersection(map(str, path))]
        *path, last = draw(st.sampled_from(draw(st.sampled_from([places, free or places]))))
        inner = found
        for key in path:
            inner = inner[key]
        how = draw(st.sampled_from(["replace", "replace", "text", "scale", "drop", "double"]))
        if how == "drop":
            del inner[last]
        elif how == "double" and isinstance(inner, list):
            inner.append(inner[last])
        elif how == "scale" and isinstance(inner[last], float):
            inner[last] = inner[last] * draw(st.sampled_from([0.5, 1.0, 1.5, 1e-320, 1e37]))
        elif how == "text":
            inner[last] = draw(st.sampled_from(TEXTS))
        else:
            inner[last] = draw(VALUES)
    return found


def _use(report, draws):
    """Everything that is done with a report that was read."""
    console = rich.console.Console(file=io.StringIO(), width=100, color_system=None)
    console.print(report)
    texts = [str(report), console.file.getvalue()]
    texts.append(json.dumps(report.to_dict(), allow_nan=False))
    assert type(report).from_dict(report.to_dict()) == report
    if isinstance(report, kr.RobustnessReport):
        manifest = {**manifest_test.make(), "signatures": [], "report": report.to_dict()}
        model_card = write_model_card(manifest)
        assert model_card.count("\n#") == CARD.count("\n#") and model_card.count(
            "\n\n"
        ) == CARD.count("\n\n")
        texts.append(model_card)
        if draws:
            texts.append(kr.evaluation.reports.html.page.make_page(report))
    elif draws:
        report.plot(io.BytesIO())
    for text in texts:
        assert not HIDDEN.search(text), HIDDEN.search(text)


CARD = write_model_card(
    {**manifest_test.make(), "signatures": [], "report": PLAIN[kr.RobustnessReport]}
)


def _try(cls, plain, draws):
    try:
        report = cls.from_dict(json.loads(json.dumps(plain)))
    except ValueError as error:
        assert "Expected" in str(error) and "Received: " in str(error)
        assert len(str(error)) < 1500 and not HIDDEN.search(str(error))
        return
    _use(report, draws)


@pytest.mark.parametrize("cls", PLAIN)
def test_what_the_fuzzer_changes_is_of_use_and_shown(cls):
    _use(cls.from_dict(PLAIN[cls]), draws=True)


SETTINGS = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(hypothesis.HealthCheck),
}


@pytest.mark.parametrize("cls", PLAIN)
@hypothesis.settings(max_examples=40, **SETTINGS)
@hypothesis.given(data=st.data())
def test_a_changed_file_is_refused_or_shown(cls, data):
    _try(cls, data.draw(changed(cls)), draws=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("cls", PLAIN)
@hypothesis.settings(max_examples=1500, **SETTINGS)
@hypothesis.given(data=st.data())
def test_many_changed_files_are_refused_or_shown_and_drawn(cls, data):
    _try(cls, data.draw(changed(cls)), draws=True)


@tiers.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe\x00",
        b"",
        b"NaN",
        json.dumps({**PLAIN[kr.RobustnessReport], "seed": 1})[:-1].encode() + b', "seed": 2}',
    ],
)
@pytest.mark.parametrize("cls", PLAIN)
def test_files_that_are_no_report(tmp_path, cls, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with refusals.assert_refused("^Expected .*Received: ", folder=tmp_path):
        cls.load(path)
