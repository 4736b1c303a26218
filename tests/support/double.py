"""Every attack, objective and certificate once, in a process in which Keras computes in float64."""

import sys
import traceback

import keras
import numpy as np

import keras_robust as kr
from keras_robust.certificate import registry


def run(package):
    """Prints the names of the cases that failed, with what they raised; exits with 1 if any did."""
    keras.config.set_floatx("float64")
    # Models that it makes are to be of that dtype too.
    from tests.support import cases

    failed = []
    for name, attempt in _ATTEMPTS[package](cases):
        try:
            attempt()
        except Exception:
            failed.append(name)
            sys.stdout.write(f"{name}:\n{traceback.format_exc()[-1500:]}\n")
        finally:
            keras.backend.clear_session()
    sys.stdout.write(f"failed: {failed}\n")
    sys.exit(bool(failed))


def data():
    x = np.random.default_rng(0).uniform(size=(12, 6))
    return x, (x[:, 0] * 3).astype("int32")


def model():
    layers = [keras.Input((6,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3)]
    built = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile("adam", loss, metrics=["accuracy"])
    return built


def _attacks(cases):
    x, y = data()
    for name, attack in cases.CASES["attacks"].items():
        balls = ["Linf"] if name.startswith("AutoAttack") else cases.ONLY.get(cases.class_of(name))
        for ball in balls or ("L1", "L2", "Linf"):
            yield f"{name} {ball}", _attack(attack, model(), x, y, cases.THREAT_MODELS[ball])


def _attack(attack, model, x, y, ball):
    def attempt():
        found = attack.run(model, x, y, ball)
        assert found.x_adv.dtype == "float32"
        assert np.isfinite(found.x_adv).all()

    return attempt


def _objectives(cases):
    for name, objective in cases.CASES["objectives"].items():
        yield name, _training(objective)
    balls = {"L1": kr.L1(0.5), "L2": kr.L2(0.5), "L0": kr.threat_models.L0(2)}
    for name, ball in balls.items():
        yield f"AdvTrain {name}", _training("adversarial", ball)


def _training(objective, ball=None):
    def attempt():
        x, y = data()
        one = model()
        layers = [keras.Input((6,)), keras.layers.Dense(3)]
        if type(objective).__name__ == "WorstCaseLinear":
            one = keras.Sequential(layers)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            one.compile("adam", loss, metrics=["accuracy"])
        before = one.get_weights()
        training = kr.AdvTrain(ball or kr.Linf(0.05), objective=objective, warmup=0)
        logs = one.fit(x, y, verbose=0, callbacks=[training]).history
        assert np.isfinite(logs["loss"]).all()
        after = one.get_weights()
        # JAX computes in float32 unless its own option for float64 is set.
        assert [weight.dtype for weight in after] == [weight.dtype for weight in before]
        assert any(np.any(a != b) for a, b in zip(before, after, strict=True))

    return attempt


def _certificates(cases):
    x, y = data()
    options = {
        "smoothing": {"noise_stddev": 0.1, "num_samples": 50},
        "interval": {"bounds": (0.0, 1.0)},
    }
    for method in registry.classes:
        layers = [keras.Input((6,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(3)]
        own = keras.Sequential(layers[:1] + layers[2:] if method == "linear" else layers)
        yield method, lambda m=method, o=own: kr.certify(o, (x, y), m, **options.get(m, {}))
    ball = kr.Linf(0.05)
    yield "evaluate", lambda: kr.evaluate(model(), (x, y), ball, attacks="pgd")
    yield "sanity_check", lambda: kr.sanity_check(model(), (x, y), ball)
    yield (
        "RobustValidation",
        lambda: model().fit(x, y, verbose=0, callbacks=[kr.RobustValidation((x, y), ball)]),
    )


_ATTEMPTS = {"attacks": _attacks, "objectives": _objectives, "certificates": _certificates}
