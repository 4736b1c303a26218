import base64
import io
import re
import sys

import matplotlib.image
import numpy as np
import pytest

from keras_robust.evaluation.reports import figures
from tests.support.html_document import Document


def _figure(label="label", colour=figures.ACCENT):
    figure = figures.make_figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([1, 2], color=colour, marker="o")
    axes.set_title(label, color=figures.INK)
    return figure


def test_a_figure_becomes_an_element_in_the_colours_of_the_page():
    svg = figures.to_svg(_figure(), 'what "it" is')
    document = Document(svg)
    name, attributes = document.elements[0]
    assert name == "svg"
    assert attributes == {"viewbox": "0 0 144 72", "role": "img", "aria-label": 'what "it" is'}
    assert "var(--accent)" in svg and "currentColor" in svg and "var(--warning)" not in svg
    assert "var(--warning)" in figures.to_svg(_figure(colour=figures.WARNING), "x")
    assert not any(colour in svg for colour in (figures.INK, figures.ACCENT, figures.WARNING))


def test_text_stays_text_and_is_escaped():
    document = Document(figures.to_svg(_figure("a<b & c"), "x"))
    assert "a<b & c" in [text.strip() for text in document.texts["text"]]


def test_several_figures_on_a_page_do_not_mix_up_their_parts():
    documents = [Document(figures.to_svg(_figure(), text)) for text in ("one", "other")]
    for document in documents:
        assert len(set(document.ids)) == len(document.ids)
        assert {link[1:] for link in document.links} <= set(document.ids)
        assert all(link.startswith("#") for link in document.links)
        assert document.named("style") == document.named("metadata") == []
    clips = [set(re.findall(r"#p\w+", figures.to_svg(_figure(), text))) for text in ("one", "two")]
    assert clips[0] and not clips[0] & clips[1]


def test_the_same_figure_has_the_same_bytes():
    assert figures.to_svg(_figure(), "x") == figures.to_svg(_figure(), "x")


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_images_keep_their_pixels(shape):
    image = np.random.default_rng(0).uniform(0.2, 0.8, size=shape)
    address = figures.to_png(image)
    kind, data = address.split(",")
    assert kind == "data:image/png;base64"
    found = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
    expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    np.testing.assert_allclose(found[..., :3], expected, atol=0.51 / 255)


@pytest.mark.parametrize("module", ["matplotlib.figure", "matplotlib.image", "matplotlib"])
def test_without_matplotlib(monkeypatch, module):
    figure = _figure()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'keras_robust\[plots\]'"):
        figures.make_figure()
        figures.to_png(np.zeros((2, 2)))
        figures.to_svg(figure, "x")
