import io
import re

import numpy as np
import pytest

import keras_robust as kr
from keras_robust.attacks import progress
from tests.support import terminals


class Notebook(io.StringIO):
    """A stream as the kernel of a notebook has it, which is no terminal."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    "stream,expected",
    [(terminals.Terminal(), True), (Notebook(), True), (io.StringIO(), False), (None, False)],
)
def test_auto_shows_progress_in_terminals_and_notebooks(monkeypatch, stream, expected):
    monkeypatch.setattr("sys.stdout", stream)
    found = [progress.is_shown(verbose) for verbose in ("auto", True, False, 1, 0)]
    assert found == [expected, True, False, True, False]


def test_other_strings_are_refused():
    message = "`verbose` must be 'auto', True or False. Received: verbose='always'"
    with pytest.raises(ValueError, match=re.escape(message)):
        progress.is_shown("always")


IMAGES = np.zeros((9, 2, 2, 1))


@pytest.mark.parametrize(
    "what,x,count,expected",
    [
        (kr.attacks.TargetedAPGD(), IMAGES, 100, "TargetedAPGD, 100 images x 9 targets"),
        (kr.attacks.TargetedFAB(num_targets=1), IMAGES, 1, "TargetedFAB, 1 image"),
        (kr.attacks.PGD(num_restarts=5), IMAGES[..., 0], 2, "PGD, 2 examples x 5 restarts"),
        (kr.attacks.Square(), np.zeros((9, 2, 2, 2)), 0, "Square, 0 examples"),
        (kr.attacks.FGSM(), {"image": IMAGES, "meta": np.zeros((9, 3))}, 1, "FGSM, 1 example"),
        (kr.certification.Crown(max_radius=0.1), IMAGES, 7, "Crown, 7 images"),
    ],
)
def test_headlines_name_the_attack_and_count_images_or_examples(what, x, count, expected):
    assert progress.headline((2, 5), what, x, count) == f"[2/5] {expected}"


@pytest.mark.parametrize(
    "channels,noun", [(1, "images"), (2, "examples"), (3, "images"), (4, "images")]
)
def test_images_have_1_3_or_4_channels(channels, noun):
    line = progress.headline((1, 1), kr.attacks.FGSM(), np.zeros((3, 8, 8, channels)), 3)
    assert line == f"[1/1] FGSM, 3 {noun}"


def test_a_search_without_a_radius_says_so():
    line = progress.headline((5, 5), kr.attacks.FMN(), IMAGES, 9, any_radius=True)
    assert line == "[5/5] FMN (any radius), 9 images"
