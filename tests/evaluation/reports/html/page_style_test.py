import re

from keras_robust.evaluation.reports.html.page import make_page
from keras_robust.evaluation.reports.html.page_style import STYLE
from tests.support import reports
from tests.support.html_document import Document


def test_every_class_of_the_page_has_a_rule():
    elements = Document(make_page(reports.make_with_images())).elements
    used = {word for _, found in elements for word in found.get("class", "").split()}
    ruled = set(re.findall(r"\.([a-z]+)\b", re.sub(r"\d*\.\d+", "", STYLE)))
    assert used - {"passed"} <= ruled
    assert ruled <= used | {"passed"}


def test_light_and_dark_have_the_same_colours():
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    names = [set(re.findall(r"(--[a-z]+):", colours)) for colours in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[a-z]+)\)", STYLE)) <= names[0]


def test_braces_match_and_nothing_is_fetched():
    assert STYLE.count("{") == STYLE.count("}") > 20
    assert "url(" not in STYLE and "@import" not in STYLE and "</" not in STYLE
