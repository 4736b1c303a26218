from keras_robust.evaluation.reports.html.page_settings import make_section
from tests.support import reports
from tests.support.html_document import Document


def test_every_setting_has_its_value():
    document = Document(make_section(reports.make()))
    settings = dict(zip(document.texts["dt"], document.texts["dd"], strict=True))
    assert settings == {
        "threat model": 'Linf, {"epsilon": "8/255", "bounds": [0, 1]}',
        "suite": "Some suite",
        "inputs": "20 features from 0.0625 to 0.9375",
        "examples, classes": "6, 3",
        "batch size": "32",
        "seed": "7",
        "model calls": "2,412",
        "wall time": "12.5 seconds",
        "versions": "keras 3",
    }
    assert document.texts["li"][-2].startswith('PGD {"num_steps": 50')


def test_settings_that_were_not_recorded():
    document = Document(make_section(reports.make(suite=None, inputs=None, batch_size=None)))
    settings = dict(zip(document.texts["dt"], document.texts["dd"], strict=True))
    assert settings["suite"] == "a custom list"
    assert settings["inputs"] == "several, or not recorded"
    assert settings["batch size"] == "-"
