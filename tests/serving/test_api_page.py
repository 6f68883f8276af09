"""The description of the API: one document for programs, one page for people."""

from html.parser import HTMLParser

from valign.serving.api_page import html
from valign.serving.openapi import document
from valign.serving.tables import Limits, compare_fields, images_fields, score_fields

LIMITS = Limits(images=3, steps=7)


class Page(HTMLParser):
    """What a browser would load, run and link to, and the text that people read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.links.append(found["href"])
        else:
            self.loads += [found[name] for name in ("src", "href") if name in found]
        assert "style" not in found, "the content policy forbids it"
        assert not [name for name in found if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_shows_every_address_and_every_field_of_the_document():
    described = document(LIMITS)
    page = Page(html(described))
    for path in described["paths"]:
        assert path in page.said
    fields = {**images_fields(LIMITS), **score_fields(LIMITS), **compare_fields(LIMITS)}
    for name, field in fields.items():
        assert name in page.said
        assert field.about in page.said
    assert "1 to 3" in page.said  # this server's own limits
    assert "data[].valign.fingerprint" in page.said
    assert "504" in page.said


def test_the_page_loads_its_style_only_and_its_links_lead_somewhere():
    page = Page(html(document(LIMITS)))
    assert page.loads == ["data:,", "page/page.css"]
    assert not page.tags & {"script", "style", "iframe", "img"}
    inside = [link for link in page.links if link.startswith("#")]
    assert len(inside) == len(document(LIMITS)["paths"])
    assert {link[1:] for link in inside} <= set(page.ids)
    assert set(page.links) - set(inside) == {"./", "openapi.json"}
    assert len(page.ids) == len(set(page.ids))


def test_words_of_the_document_are_no_markup():
    described = document(LIMITS)
    described["paths"]["/v1/models"]["get"]["summary"] = "<script>alert(1)</script>"
    assert "<script" not in html(described)
