import pytest

from keras_robust.certification.certificate_schema import check_certificate
from tests.certification import certificate_report_test as example
from tests.support import refusals
from tests.support import reports


def plain(**changes):
    return {**example.make().to_dict(), **changes}


def test_saved_certificates_are_accepted():
    check_certificate(plain())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 3}, "schema_version 1 to 2. Received: .*schema_version=3"),
        ({"schema_version": True}, "schema_version 1 to 2. Received: .*schema_version=True"),
        ({"broken_radii": [0.9]}, "broken_radii to be no entries, or num_examples 5"),
        ({"broken_radii": [-0.1] * 5}, r"broken_radii\[0\] to be a number, at least 0"),
        ({"broken_radii": [None, None, 0.2, None, None]}, "radii above those that are certified"),
        ({"norm": 2}, "certificate.norm to be one of .'L1', 'L2', 'Linf'."),
        ({"norm": "l2"}, "certificate.norm to be one of .*Received: certificate.norm='l2'"),
        ({"radii": [0.5, 0.1, 0.2, 0.9, 0.2]}, "radii to be 0 if the prediction is -1"),
        ({"abstained": 1.2}, "certificate.abstained to be a number, at least 0, at most 1"),
        ({"average_radius": float("nan")}, "certificate.average_radius to be a number"),
        ({"extra": 1}, r"unknown \['extra'\]"),
        ({"num_classes": 1}, "certificate.num_classes to be an integer, at least 2"),
        (
            {"method": {"class_name": "Interval", "config": {}}, "norm": "L2"},
            "certificate.norm to be 'Linf', the norm of Interval. Received: certificate.norm='L2'",
        ),
        (
            {"method": {"class_name": "Linear", "config": {"norm": "L1"}}, "norm": "L2"},
            "certificate.norm to be 'L1', the norm of Linear",
        ),
        (
            {"method": {"class_name": "Interval", "config": {"many": 1}}},
            "Expected the arguments of Interval in certificate.method.config.*no argument `many`",
        ),
        ({"method": {"class_name": "Smoothing"}}, r"certificate.method.*missing \['config'\]"),
        ({"labels": [0, 1]}, "certificate.labels to be a list of num_examples 5"),
        ({"predictions": [0, -2, 2, 0, 0]}, r"predictions\[1\] to be an integer, at least -1"),
        ({"predictions": [0, -1, 3, 0, 0]}, "predictions to be classes below num_classes 3"),
        ({"radii": [0.5, 0.0, 0.2, -0.9, 0.2]}, r"radii\[3\] to be a number, at least 0"),
        ({"clean_accuracy": 0.8}, "clean_accuracy to be the value for the examples, 0.6"),
        ({"abstained": 0.0}, "abstained to be the value for the examples, 0.2"),
        ({"average_radius": 0.36}, "average_radius to be the value for the examples, 0.18"),
        (
            {"curve": {"radii": [0.0, 0.3], "certified_accuracy": [0.6, 0.6]}},
            "curve to be the curve of the examples",
        ),
        (
            {"curve": {"radii": [0.0], "certified_accuracy": [0.6, 0.2]}},
            "curve to be an accuracy per radius, with radii ascending from 0",
        ),
        ({"curve": {"radii": [], "certified_accuracy": []}}, "curve to be an accuracy per"),
        (
            {"curve": {"radii": [0.2, 0.0], "certified_accuracy": [0.6, 0.6]}},
            "curve to be an accuracy per radius, with radii ascending from 0",
        ),
        (
            {"curve": {"radii": [0.0, 0.2, 0.2], "certified_accuracy": [0.6, 0.6, 0.6]}},
            "curve to be an accuracy per radius, with radii ascending from 0",
        ),
        (
            {"radii": [10**400] * 5},
            r"radii\[0\] to be a number, at least 0, at most 3.4028234663852886e\+38",
        ),
        (
            {"radii": [1e300] * 5},
            r"radii\[0\] to be a number, at least 0, at most 3.4028234663852886e\+38",
        ),
        ({"num_classes": 2**63}, "certificate.num_classes to be an integer, at least 2"),
        ({"method": {"class_name": "\x1b[2J", "config": {}}}, "text without control characters"),
        ({"method": {"class_name": "A", "config": {"\x1b": 1}}}, "text without control characters"),
        ({"schema": "x" * 10**6}, "Received: schema='x{5,30}.{0,30}x*', schema_version=2$"),
    ],
)
def test_the_first_wrong_field_is_named(changes, message):
    with refusals.assert_refused(message):
        check_certificate(plain(**changes))


def test_the_error_for_a_robustness_report_names_its_reader():
    with pytest.raises(ValueError, match=r"Expected a cert.*kr.RobustnessReport.load\(path\)"):
        check_certificate(reports.make().to_dict())
