"""Defenses by the names of the literature, as arguments of `AdvTrain`."""

import json

import keras_robust as kr
from keras_robust.configurable import required_arguments

from . import training
from .names import snake_case

# Names that mean more than one objective with its default attack.
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
    """Returns the names that `arguments` accepts, sorted.

    These are all objectives that need no constructor arguments, and the recipes.
    """
    alone = [cls for cls in kr.objectives.ALL if not required_arguments(cls)]
    return sorted({*_RECIPES, *map(snake_case, alone)})


def arguments(name, attack=None, num_steps=None, changes=()):
    """Returns the arguments `objective` and `attack` of `AdvTrain`.

    Args:
        name: str, one of `names()`.
        attack: name of an attack. Defaults to `None`, the usual attack of the defense.
        num_steps: int, steps of the attack. Defaults to `None`, the default of the attack.
        changes: list of str, constructor arguments of the objective like `"beta=1.0"`.

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
                f"{type(objective).__name__} has the arguments {sorted(config)}: write them like "
                f"beta=1.0. Received: --objective_arguments={change}"
            )
        # A value is JSON, and any other text is a str.
        try:
            config[name] = json.loads(text)
        except json.JSONDecodeError:
            config[name] = text
    return type(objective).from_config(config)
