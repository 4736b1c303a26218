"""Error messages for unknown arguments: they say what to write instead."""

import difflib
import functools
import inspect
import numbers

# Our argument -> the names that other libraries and papers give it.
_OTHER_NAMES = {
    "attack": "attacks attack_fn",
    "attacks": "attack attack_list suite",
    "batch_size": "batch bs",
    "beta": "lambda_ lamda lam weight trade_off tradeoff",
    "bounds": "clip_min clip_max clip_values box pixel_range min_value max_value",
    "certificates": "certificate certify proofs verifier verifiers",
    "class_names": "label_names classes",
    "data": "dataset ds test_data validation_data",
    "epsilon": "eps epsilons radius max_norm max_eps linf",
    "eot_samples": "eot eot_iter eot_steps num_eot",
    "label_names": "class_names classes labels",
    "learning_rate": "lr",
    "loss": "loss_fn loss_function loss_type criterion",
    "noise_stddev": "sigma noise noise_std stddev std noise_sd",
    "num_classes": "n_classes nb_classes classes",
    "num_examples": "n_ex n_examples max_examples num_samples n_samples",
    "num_queries": "n_queries nb_queries max_queries queries",
    "num_replays": "replays m hop_step",
    "num_restarts": "restarts n_restarts nb_restarts num_random_init random_restarts",
    "num_samples": "n n_samples samples num_noise_vec",
    "num_steps": "steps nb_iter num_iter n_iter iters iterations max_iter num_iterations n_steps "
    "max_iterations perturb_steps nb_epoch steps_per_attack",
    "random_start": "rand_init random_init rand rand_start use_random_start",
    "seed": "random_state rng random_seed",
    "step_size": "alpha eps_iter eps_step stepsize step lr learning_rate",
    "targeted": "target is_targeted",
    "temperature": "T temp",
    "threat_model": "norm threat",
    "weight": "lambda_ lamda lam beta alpha coefficient",
}
_ATTACK_ARGUMENTS = (
    "num_steps step_size random_start num_restarts loss targeted eot_samples".split()
)
_EXAMPLE_NAMES = ("x", "y", "X", "x_test", "y_test", "inputs", "images", "labels")
_DATA_ADVICE = "Examples and labels are one argument: data=(x, y)."

_Kind = inspect.Parameter
_NAMED_KINDS = (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)


def with_argument_advice(function, name=None):
    """Returns the function with helpful errors: a `TypeError` that says what to write instead.

    Args:
        function: a function, or the `__init__` of a class.
        name: str, the name that the error shows. Defaults to `None`, the name of the function.
    """
    parameters = dict(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args, **kwargs):
        _check(name or function.__qualname__, parameters, args, kwargs)
        return function(*args, **kwargs)

    # Keras reads the signature of the outermost function and ignores `__wrapped__`.
    call.__signature__ = inspect.signature(function)
    call.explains = True
    return call


def explain_calls(classes):
    """Wraps the constructors of classes in `with_argument_advice`."""
    for cls in classes:
        if cls.__init__ is not object.__init__ and not hasattr(cls.__init__, "explains"):
            cls.__init__ = with_argument_advice(cls.__init__, cls.__name__)


def advice(name, value, known):
    """Returns a sentence that says what to write instead of an unknown argument.

    Args:
        name: str, the unknown argument.
        value: the value that it was given.
        known: list of str, the arguments that the function has.
    """
    if own := _own_name(name, known):
        return f"Write {own}={'(low, high)' if own == 'bounds' else _brief(value)}."
    if name in _EXAMPLE_NAMES and "data" in known:
        return _DATA_ADVICE
    return (
        _threat_model_advice(name, value, known)
        or _attack_advice(name, value, known)
        or _nearest_advice(name, known)
    )


def _threat_model_advice(name, value, known):
    """Returns advice for an argument that belongs to a threat model, else `None`."""
    meant = _meanings(name)
    place = "threat_model=" if "threat_model" in known else ""
    if "epsilon" in meant:
        return f"Pass the radius to the threat model: {place}kr.Linf({_brief(value)})."
    if "bounds" in meant:
        return f"Pass the bounds to the threat model: {place}kr.Linf(epsilon, bounds=(low, high))."
    if name == "norm":
        return f"The class of the threat model sets the norm, for example {place}kr.L2(epsilon)."
    return None


def _attack_advice(name, value, known):
    """Returns advice for an argument that belongs to an attack or an objective, else `None`."""
    meant = _meanings(name)
    setting = next((own for own in meant if own in _ATTACK_ARGUMENTS), None)
    place = next((own for own in ("attack", "attacks") if own in known), None)
    if setting and place:
        return f"Pass it to the attack: {place}=kr.attacks.PGD({setting}={_brief(value)})."
    if "objective" in known and "beta" in meant:
        return f"Pass it to the objective: objective=kr.objectives.TRADES(beta={_brief(value)})."
    return None


def _nearest_advice(name, known):
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"The arguments are {', '.join(known)}."


def is_radius(name):
    """Returns whether other libraries use this name for a radius."""
    return "epsilon" in _meanings(name)


def is_bounds(name):
    """Returns whether other libraries use this name for the bounds of the inputs."""
    return "bounds" in _meanings(name)


def _check(name, parameters, args, kwargs):
    """Raises a `TypeError` for arguments that a function with these parameters does not have."""
    kinds = {key: parameter.kind for key, parameter in parameters.items()}
    known = [key for key, kind in kinds.items() if kind in _NAMED_KINDS and key != "self"]
    _check_names(name, known, kwargs, is_open=_Kind.VAR_KEYWORD in kinds.values())
    if _Kind.VAR_POSITIONAL not in kinds.values():
        positional = [key for key, kind in kinds.items() if kind is _Kind.POSITIONAL_OR_KEYWORD]
        _check_positions(name, known, positional, args)


def _check_names(name, known, kwargs, is_open):
    """Raises a `TypeError` for the first unknown name.

    A function with `**kwargs` (`is_open`) passes names on that its signature does not list, to
    Keras for a layer, or to the certificate in `certify`. It refuses only those names that other
    libraries give to its own arguments.
    """
    for key, value in kwargs.items():
        if key in known or key == "self":
            continue
        if is_open and (key in _OTHER_NAMES or not _is_own(key, known)):
            continue
        raise TypeError(
            f"{name} has no argument `{key}`. {advice(key, value, known)} "
            f"Received: {key}={_brief(value)}"
        )


def _check_positions(name, known, positional, args):
    """Raises a `TypeError` if there are more `args` than positional parameters."""
    others = args[len(positional) :]
    if not others:
        return
    positional = [key for key in positional if key != "self"]
    if positional:
        text = f"{name} takes {', '.join(positional)} by position, other arguments by name."
    else:
        text = f"{name} takes its arguments by name: {', '.join(known)}."
    if "data" in positional:
        text += f" {_DATA_ADVICE}"
    elif not positional and isinstance(others[0], numbers.Real):
        text += f" Pass a radius to the threat model: kr.Linf({others[0]})."
    received = ", ".join(map(_brief, others))
    count = len(positional) + len(others)
    raise TypeError(f"{text} Received: {count} arguments by position, the last ones {received}")


def _meanings(name):
    """Returns our arguments that have this name here or in other libraries."""
    return [own for own, others in _OTHER_NAMES.items() if name in (own, *others.split())]


def _own_name(name, known):
    """Returns the known argument that other libraries call `name`, or `None`."""
    # `norm="linf"` alone is no threat model: it also needs a radius.
    found = [own for own in _meanings(name) if own in known and own != "threat_model"]
    return found[0] if found else None


def _is_own(name, known):
    """Returns whether every meaning of `name` is a known argument."""
    meant = _meanings(name)
    return bool(meant) and set(meant) <= set(known)


def _brief(value):
    is_short = isinstance(value, (numbers.Number, str, type(None))) and len(repr(value)) < 40
    return repr(value) if is_short else f"<{type(value).__name__}>"
