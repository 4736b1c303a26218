"""Calls with arguments that are not there: the error says what to write instead."""

import difflib
import functools
import inspect
import numbers

# What other libraries and papers call it.
_OTHER_NAMES = {
    "attack": "attacks attack_fn",
    "attacks": "attack attack_list suite",
    "batch_size": "batch bs",
    "beta": "lambda_ lamda lam weight trade_off tradeoff",
    "bounds": "clip_min clip_max clip_values box pixel_range min_value max_value",
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
_OF_ATTACKS = "num_steps step_size random_start num_restarts loss targeted eot_samples".split()
_EXAMPLES = ("x", "y", "X", "x_test", "y_test", "inputs", "images", "labels")
_ONE_ARGUMENT = "Examples and labels are one argument: data=(x, y)."

_Kind = inspect.Parameter
_NAMED = (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)


def with_argument_advice(function, name=None):
    """Returns a function whose calls with unknown arguments raise a `TypeError` that helps.

    Args:
        function: a function, or the `__init__` of a class.
        name: str, for the error; `None` for that of the function.
    """
    parameters = dict(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args, **kwargs):
        _check(name or function.__qualname__, parameters, args, kwargs)
        return function(*args, **kwargs)

    # Keras looks past what `wraps` leaves.
    call.__signature__ = inspect.signature(function)
    call.explains = True
    return call


def explain_calls(classes):
    """Makes the constructors of classes say what to write instead of an unknown argument."""
    for cls in classes:
        if cls.__init__ is not object.__init__ and not hasattr(cls.__init__, "explains"):
            cls.__init__ = with_argument_advice(cls.__init__, cls.__name__)


def advice(name, value, known):
    """Returns a sentence that says what to write instead of an argument.

    Args:
        name: str, the argument that is unknown.
        value: what it was given.
        known: list of str, the arguments that there are.
    """
    shown = _shown(value)
    if own := _own_name(name, known):
        return f"Write {own}={'(low, high)' if own == 'bounds' else shown}."
    if name in _EXAMPLES and "data" in known:
        return _ONE_ARGUMENT
    meant = _meanings(name)
    place = "threat_model=" if "threat_model" in known else ""
    if "epsilon" in meant:
        return f"The radius is that of the threat model: {place}kr.Linf({shown})."
    if "bounds" in meant:
        return f"The box is that of the threat model: {place}kr.Linf(epsilon, bounds=(low, high))."
    if name == "norm":
        return f"The norm is the class of the threat model, such as {place}kr.L2(epsilon)."
    setting = next((own for own in meant if own in _OF_ATTACKS), None)
    place = next((own for own in ("attack", "attacks") if own in known), None)
    if setting and place:
        return f"That belongs to the attack: {place}=kr.attacks.PGD({setting}={shown})."
    if "objective" in known and "beta" in meant:
        return f"That belongs to the objective: objective=kr.objectives.TRADES(beta={shown})."
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known)}."


def is_radius(name):
    """Whether others call a radius so."""
    return "epsilon" in _meanings(name)


def _check(name, parameters, args, kwargs):
    """Raises a `TypeError` for arguments that a function with these parameters does not have."""
    kinds = [parameter.kind for parameter in parameters.values()]
    named = [key for key in parameters if parameters[key].kind in _NAMED]
    known = [key for key in named if key != "self"]
    for key in kwargs:
        # What Keras takes of a layer, and a certificate of `certify`, is not written down.
        is_other = key in _OTHER_NAMES or not _is_own(key, known)
        is_open = _Kind.VAR_KEYWORD in kinds and is_other
        if key not in named and not is_open:
            raise TypeError(
                f"{name} has no argument `{key}`. {advice(key, kwargs[key], known)} "
                f"Received: {key}={_shown(kwargs[key])}"
            )
    places = [key for key in named if parameters[key].kind is _Kind.POSITIONAL_OR_KEYWORD]
    if len(args) > len(places) and _Kind.VAR_POSITIONAL not in kinds:
        _refuse_places(name, known, [key for key in places if key != "self"], args[len(places) :])


def _refuse_places(name, known, places, others):
    if places:
        text = f"{name} takes {', '.join(places)} by place, and everything else by name."
    else:
        text = f"{name} takes its arguments by name: {', '.join(known)}."
    if "data" in places:
        text += f" {_ONE_ARGUMENT}"
    elif not places and isinstance(others[0], numbers.Real):
        text += f" A radius is that of the threat model: kr.Linf({others[0]})."
    received = ", ".join(map(_shown, others))
    raise TypeError(f"{text} Received: {len(places) + len(others)} by place, at the end {received}")


def _meanings(name):
    """Returns the arguments of ours that others call so, or that are called so."""
    return [own for own, others in _OTHER_NAMES.items() if name in (own, *others.split())]


def _own_name(name, known):
    """Returns the argument among those that are known which others call so, or `None`."""
    # A norm is no threat model yet.
    found = [own for own in _meanings(name) if own in known and own != "threat_model"]
    return found[0] if found else None


def _is_own(name, known):
    """Whether all arguments of ours that others call so are among those that are known."""
    meant = _meanings(name)
    return bool(meant) and set(meant) <= set(known)


def _shown(value):
    is_short = isinstance(value, (numbers.Number, str, type(None))) and len(repr(value)) < 40
    return repr(value) if is_short else f"<{type(value).__name__}>"
