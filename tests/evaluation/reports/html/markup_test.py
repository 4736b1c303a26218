import pytest

from keras_robust.evaluation.reports.html.markup import Markup
from keras_robust.evaluation.reports.html.markup import as_text
from keras_robust.evaluation.reports.html.markup import element
from keras_robust.evaluation.reports.html.markup import table
from tests.support.html_document import Document


def test_text_is_escaped_once():
    inner = element("b", "<i> & \"'")
    assert inner == "<b>&lt;i&gt; &amp; &quot;&#x27;</b>\n"
    assert element("p", inner, "<") == f"<p>{inner}&lt;</p>\n"
    assert isinstance(inner, Markup)


def test_attributes_are_escaped_and_named():
    found = element("p", class_="a", aria_label='"><script>', style=None, tabindex=0)
    assert found == '<p class="a" aria-label="&quot;&gt;&lt;script&gt;" tabindex="0"></p>\n'


@pytest.mark.parametrize("name", ["img", "meta"])
def test_elements_without_an_end(name):
    assert element(name, name="x") == f'<{name} name="x">'


def test_nothing_is_left_out_and_numbers_are_text():
    assert element("p", None, 0, 1.5) == "<p>01.5</p>\n"


def test_a_table_has_headings_for_columns_and_rows():
    own = element("td", "own", class_="text")
    document = Document(table(["a", as_text("b<")], [["x&", 1], ["y", own]], "what it is"))
    headings = [item.get("scope") for item in document.named("th")]
    assert headings == ["col", "col", "row", "row"]
    assert document.texts["th"] == ["a", "b<", "x&", "y"]
    assert document.texts["td"] == ["1", "own"]
    assert document.texts["caption"] == ["what it is"]
    assert [item.get("class") for item in document.named("td")] == [None, "text"]
    region = document.named("div")[0]
    assert (region["role"], region["aria-label"], region["tabindex"]) == (
        "region",
        "what it is",
        "0",
    )


def test_a_table_without_a_caption_is_named_after_its_first_column():
    document = Document(table(["first"], [["x"]]))
    assert document.named("caption") == []
    assert document.named("div")[0]["aria-label"] == "first"
