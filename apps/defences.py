"""The defences of the literature by name: what `AdvTrain` is given for each."""

import json

import keras_robust as kr
from keras_robust.configurable import required_arguments

from . import training
from .names import snake_case

# Where a paper is more than the class of an objective with its usual attack.
_RECIPES = {
    "fast": {"attack": "random_start_fgsm"},
    "fgsm": {"attack": "fgsm"},
    "goodfellow": {"objective": "mixed", "attack": "fgsm"},
    "kannan": {"objective": "logit_pairing"},
    "madry": {"objective": "adversarial", "attack": "pgd"},
    "n_fgsm": {"attack": "n_fgsm"},
    "szegedy": {"objective": kr.objectives.AdversarialPool(refresh=100)},
    "trades_awp": {"objective": kr.objectives.AWP(0.005, "trades")},
}


def names():
    """Returns what `arguments` knows: every objective that needs no arguments, and the recipes."""
    alone = [cls for cls in kr.objectives.ALL if not required_arguments(cls)]
    return sorted({*_RECIPES, *map(snake_case, alone)})


def arguments(name, attack=None, num_steps=None, changes=()):
    """Returns the arguments `objective` and `attack` of `AdvTrain`.

    Args:
        name: str, one of `names()`.
        attack: name of an attack, or `None` for the one that the defence usually takes.
        num_steps: int, steps of the attack, or `None` for what is usual.
        changes: list of str such as `"beta=1.0"`, constructor arguments of the objective.

    Raises:
        ValueError: for `num_steps` with an attack of a fixed number of steps, and for arguments
            that the objective does not have.
    """
    recipe = _RECIPES.get(name, {"objective": name})
    objective = _change(kr.objectives.get(recipe.get("objective", "adversarial")), changes)
    chosen = attack or recipe.get("attack") or objective.default_attack
    return {"objective": objective, "attack": training.make_attack(chosen, num_steps)}


def _change(objective, changes):
    config = objective.get_config()
    for change in changes:
        name, _, text = change.partition("=")
        if name not in config:
            raise ValueError(
                f"{type(objective).__name__} has the arguments {sorted(config)}, to be given as "
                f"beta=1.0. Received: --objective_arguments={change}"
            )
        try:
            config[name] = json.loads(text)
        except json.JSONDecodeError:
            config[name] = text
    return type(objective).from_config(config)
