import time

import pytest

import keras_robust as kr
from keras_robust.callbacks import adv_train
from keras_robust.callbacks.print_after import print_after
from tests.support import linear_fit


def test_only_slow_code_prints_the_message(capsys):
    with print_after(0.01, "long"):
        time.sleep(0.2)
    with pytest.raises(RuntimeError):
        with print_after(0.05, "short"):
            raise RuntimeError
    time.sleep(0.1)
    assert capsys.readouterr().out == "long\n"


@pytest.mark.exhaustive
def test_a_slow_first_batch_prints_once_unless_fit_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(adv_train, "_LONG", 0.0)
    for verbose, count in ((2, 1), (0, 0)):
        callback = kr.AdvTrain(kr.Linf(0.1), attack="fgsm")
        linear_fit.fit(linear_fit.make_model(), callback, epochs=2, verbose=verbose)
        assert capsys.readouterr().out.count("AdvTrain: compiling the train step") == count
