from keras_robust.evaluation.reports.html import page_certificates
from keras_robust.evaluation.reports.html.page import make_page
from tests.support import reports
from tests.support.html_document import Document


def test_the_section_has_the_numbers_of_each_certificate():
    document = Document(page_certificates.make_section(reports.make_with_proofs()))
    assert document.texts["th"] == [
        *("certificate", "examples", "proved", "broken", "seconds"),
        *("Interval", "Crown"),
    ]
    assert document.texts["td"] == ["5", "1", "1", "0.8", "3", "0", "0", "2.2"]
    assert document.texts["li"] == ['Interval {"max_radius": 0.0314}', 'Crown {"norm": "Linf"}']


def test_the_headline_has_the_lower_bound_beside_the_upper_one():
    ((name, value, note),) = page_certificates.make_figures(reports.make_with_proofs())
    assert (name, value) == ("certified accuracy", "16.7%")
    assert note == "proved, a lower bound; 16.7% is neither broken nor proved"
    page = make_page(reports.make_with_proofs())
    assert page.index("33.3%") < page.index(note) < page.index("Certificates")


def test_without_certificates_nothing_is_shown():
    assert page_certificates.make_section(reports.make()) is None
    assert page_certificates.make_figures(reports.make()) == []
    page = make_page(reports.make())
    assert "ertificate" not in page and page.count("certified") == 0
