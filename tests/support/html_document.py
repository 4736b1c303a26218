"""An HTML page as a reader and a browser see it."""

import html.parser

_VOID = {"img", "meta", "br", "link", "input"}


class Document(html.parser.HTMLParser):
    """Parses a page, and fails where tags do not match.

    Attributes: `elements`, pairs of a name and a dict of attributes; `texts`, dict from the name of
    an element to the texts directly within such elements; `ids` and `links`, the values of `id` and
    of all attributes that refer to something.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.ids, self.links, self._open = [], {}, [], [], []
        self.feed(text)
        self.close()
        assert self._open == []
        self.texts = {name: [text.strip() for text in found] for name, found in self.texts.items()}

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.elements.append((tag, attributes))
        if tag not in _VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def named(self, tag):
        """The attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]
