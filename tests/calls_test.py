import inspect

import keras
import numpy as np
import pytest

import keras_robust as kr
from keras_robust import calls
from tests.support import refusals
from tests.support import small_models

X, Y = np.zeros((4, 2), "float32"), np.zeros(4, "int64")


def add(first, second=2, *, third=3):
    return first + second + third


class Base:
    def __init__(self, alpha, *, weight=1.0):
        self.alpha, self.weight = alpha, weight


class Inherits(Base):
    pass


class Open(Base):
    def __init__(self, *, noise_stddev=0.0, **others):
        super().__init__(0.0, **others)
        self.noise_stddev = noise_stddev


class Plain:
    """Takes nothing."""


@pytest.fixture
def explained_classes():
    """Copies of the classes, so that the constructors of the originals stay unchanged."""
    copies = {}
    for cls in (Base, Inherits, Open, Plain):
        bases = tuple(copies.get(base.__name__, base) for base in cls.__bases__)
        copies[cls.__name__] = type(cls.__name__, bases, dict(vars(cls)))
    copies["Open"].__init__ = lambda self, *, noise_stddev=0.0, **others: None
    calls.explain_calls(copies.values())
    return copies


def test_a_valid_call_is_unchanged():
    call = calls.with_argument_advice(add)
    assert call(1) == 6
    assert call(1, 5, third=7) == 13
    assert inspect.signature(call) == inspect.signature(add)
    assert inspect.getfullargspec(call) == inspect.getfullargspec(add)
    assert call.__name__ == "add"


def test_other_errors_are_unchanged():
    with pytest.raises(TypeError, match="can only concatenate str"):
        calls.with_argument_advice(add)("a")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        calls.with_argument_advice(add)()


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1,), {"thrid": 5}, "add has no argument `thrid`. Did you mean third.* thrid=5"),
        ((1,), {"zz": X}, "The arguments are first, second, third. Received: zz=<ndarray>$"),
        (
            (1, 2, 3),
            {},
            "takes first, second by position, .* by name.* 3 arguments .*, the last ones 3",
        ),
    ],
)
def test_unknown_arguments(args, kwargs, message):
    with refusals.assert_refused(message, error=TypeError):
        calls.with_argument_advice(add)(*args, **kwargs)


def test_constructors(explained_classes):
    for name in ("Base", "Inherits"):
        cls = explained_classes[name]
        assert (cls(3, weight=4).alpha, cls(3, weight=4).weight) == (3, 4)
        with pytest.raises(TypeError, match="Base has no argument `lam`. Write weight=2."):
            cls(3, lam=2)
    assert list(inspect.signature(explained_classes["Base"]).parameters) == ["alpha", "weight"]
    with pytest.raises(TypeError, match="takes no arguments"):
        explained_classes["Plain"](1)


def test_a_function_with_kwargs_refuses_only_names_from_other_libraries(explained_classes):
    cls = explained_classes["Open"]
    cls(noise_stddev=1.0, whatever=2, num_samples=3)
    with refusals.assert_refused(
        "Open has no argument `sigma`. Write noise_stddev=0.1.", error=TypeError
    ):
        cls(sigma=0.1)


HABITS = [
    (lambda: kr.attacks.PGD(eps=0.1), r"no argument `eps`.*threat model: kr.Linf\(0.1\)"),
    (lambda: kr.attacks.PGD(epsilon="8/255"), r"threat model: kr.Linf\('8/255'\)"),
    (lambda: kr.attacks.FGSM(0.1), r"by name: targeted, loss.*threat model: kr.Linf\(0.1\)"),
    (lambda: kr.attacks.PGD(nb_iter=7), "Write num_steps=7"),
    (lambda: kr.attacks.PGD(alpha=0.01), "Write step_size=0.01"),
    (lambda: kr.attacks.PGD(rand_init=True), "Write random_start=True"),
    (lambda: kr.attacks.PGD(clip_min=0), r"bounds to the threat model.*bounds=\(low, high\)"),
    (lambda: kr.attacks.PGD(norm="inf"), "class of the threat model sets the norm"),
    (
        lambda: kr.attacks.PGD()(small_models.simple(), X, Y, eps=0.1),
        r"threat_model=kr.Linf\(0.1\)",
    ),
    (
        lambda: kr.attacks.PGD().run(small_models.simple(), X, Y, epsilon=1),
        r"threat_model=kr.Linf\(1\)",
    ),
    (lambda: kr.attacks.Square(n_queries=100), "Write num_queries=100"),
    (lambda: kr.AdvTrain(epsilon=0.1), r"threat_model=kr.Linf\(0.1\)"),
    (lambda: kr.AdvTrain(num_steps=7), r"attack=kr.attacks.PGD\(num_steps=7\)"),
    (lambda: kr.AdvTrain(alpha=0.01), r"attack=kr.attacks.PGD\(step_size=0.01\)"),
    (lambda: kr.AdvTrain(beta=6), r"objective=kr.objectives.TRADES\(beta=6\)"),
    (
        lambda: kr.AdvTrain("linf", "pgd"),
        "takes threat_model by position, other arguments by name",
    ),
    (lambda: kr.RobustValidation((X, Y), eps=0.1), r"threat_model=kr.Linf\(0.1\)"),
    (lambda: kr.objectives.TRADES(lambda_=6), "Write beta=6"),
    (lambda: kr.objectives.LogitPairing(lam=0.5), "Write weight=0.5"),
    (lambda: kr.Linf(eps=0.1), "Write epsilon=0.1"),
    (lambda: kr.L2(0.1, clip_values=(0, 1)), r"Write bounds=\(low, high\)"),
    (
        lambda: kr.evaluate(None, X, Y, "linf", "pgd"),
        r"are one argument: data=\(x, y\).*: 5",
    ),
    (lambda: kr.evaluate(None, x=X, y=Y), r"are one argument: data=\(x, y\)"),
    (lambda: kr.evaluate(None, (X, Y), eps=0.1), r"threat_model=kr.Linf\(0.1\)"),
    (lambda: kr.evaluate(None, (X, Y), attack="pgd"), "Write attacks='pgd'"),
    (lambda: kr.evaluate(None, (X, Y), num_steps=9), r"attacks=kr.attacks.PGD\(num_steps=9\)"),
    (lambda: kr.evaluate(None, (X, Y), n_ex=9), "Write num_examples=9"),
    (lambda: kr.sanity_check(None, (X, Y), radius=1), r"threat_model=kr.Linf\(1\)"),
    (lambda: kr.certify(None, (X, Y), n_ex=9), "Write num_examples=9"),
    (lambda: kr.certification.Smoothing(sigma=0.25), "Write noise_stddev=0.25"),
    (lambda: kr.layers.RandomizedSmoothing(None, sigma=0.25), "Write noise_stddev=0.25"),
    (lambda: kr.layers.InputGuard(clip_min=0), r"Write bounds=\(low, high\)"),
    (lambda: kr.losses.SoftTargets(T=2), "Write temperature=2"),
    (lambda: kr.evaluation.BlackBox(abs, n_classes=2), "Write num_classes=2"),
    (lambda: kr.export_saved_model(None, "x", class_names=["a"]), "Write label_names=<list>"),
    (lambda: kr.datasets.load("digits", data_dirs="x"), "Did you mean data_dir"),
]


@pytest.mark.parametrize("index", range(len(HABITS)))
def test_names_from_other_libraries(index):
    call, message = HABITS[index]
    with refusals.assert_refused(message, error=TypeError):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.25}, "Write noise_stddev=0.25. Received: sigma"),
        ({"eps": 0.25}, r"`report.certified_accuracy\(radius\)`.* use radius=0.25. Received: eps"),
    ],
)
def test_options_of_a_certificate(options, message):
    with refusals.assert_refused(message):
        kr.certify(small_models.simple(), (X, Y), "smoothing", **options)


@pytest.mark.parametrize("name", ["bounds", "clip_min", "pixel_range", "radius", "eps", "alpha"])
def test_names_of_bounds_and_radii_in_other_libraries(name):
    assert calls.is_bounds(name) == (name in ("bounds", "clip_min", "pixel_range"))
    assert calls.is_radius(name) == (name in ("radius", "eps"))


def test_certify_passes_certificate_options_on():
    """`num_samples` is an argument of `"smoothing"`, and another name of `num_examples`."""
    with refusals.assert_refused("Argument `num_samples`.*Received: num_samples=-1"):
        kr.certify(small_models.simple(), (X, Y), "smoothing", noise_stddev=0.1, num_samples=-1)


PACKAGES = (kr.attacks, kr.objectives, kr.threat_models, kr.certification, kr.callbacks, kr.layers)


def test_every_public_class_and_function_explains_unknown_arguments():
    losses = [cls for cls in vars(kr.losses).values() if inspect.isclass(cls)]
    classes = [*(cls for package in PACKAGES for cls in package.ALL), *losses]
    assert len(classes) > 80
    for cls in classes:
        if cls.__init__ is not object.__init__:
            assert hasattr(cls.__init__, "explains"), cls
    for name in kr.__all__:
        if inspect.isfunction(getattr(kr, name)):
            assert hasattr(getattr(kr, name), "explains"), name


def test_a_user_subclass_has_its_own_arguments():
    class Mine(kr.attacks.PGD):
        def __init__(self, flavour, **others):
            super().__init__(**others)
            self.flavour = flavour

    assert Mine("sweet", num_steps=3).num_steps == 3
    with pytest.raises(TypeError, match="Write num_steps=3"):
        Mine("sweet", steps=3)


def test_layers_are_serialized_as_before():
    layer = kr.layers.InputGuard((0, 2), name="door", dtype="float32")
    assert keras.layers.deserialize(keras.layers.serialize(layer)).bounds == layer.bounds
    assert (layer.name, layer.bounds) == ("door", (0.0, 2.0))
