"""The warm-up of epsilon at the start of a training, in optimizer steps."""

import re

_DEFAULT = "20%"
# Used if the length of the training is not known.
DEFAULT_STEPS = 500


def parse_warmup(warmup):
    """Returns `(share, None)` for a percentage, and `(None, steps)` for a number of steps."""
    if warmup is None:
        return None, 0
    if isinstance(warmup, int) and not isinstance(warmup, bool) and warmup >= 0:
        return None, warmup
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", warmup) if isinstance(warmup, str) else None
    if match and float(match.group(1)) <= 100.0:
        return float(match.group(1)) / 100.0, None
    raise ValueError(
        "Argument `warmup` must be a percentage of the training such as '20%', a number of "
        f"optimizer steps >= 0, or None. Received: warmup={warmup!r}"
    )


class WarmUp:
    """The warm-up of one `fit`.

    Epsilon is a function of `optimizer.iterations`, so that a resumed training continues where it
    was.

    Args:
        callback: the `AdvTrain`, with its model and the parameters of the `fit`.

    Attributes: `epsilon_warmup`, a pair: the optimizer step at which epsilon starts to grow, and
    the number of steps in which it grows; `is_guessed`, whether the number of steps is
    `DEFAULT_STEPS`, because the length of the data is unknown.
    """

    def __init__(self, callback):
        warmup, epochs = callback.warmup, callback.params["epochs"]
        if warmup is None:
            warmup = 0 if callback.threat_model.is_scheduled else _DEFAULT
        has_length = callback.params.get("steps") is not None
        # Without a warm-up, as for a scheduled epsilon, there is no number of steps to guess.
        self.is_guessed = not has_length and callback.warmup is None and bool(warmup)
        share, steps = parse_warmup(DEFAULT_STEPS if self.is_guessed else warmup)
        start = _planned(callback, callback.clean_epochs) if callback.clean_epochs else 0
        if share is not None:
            clean = min(callback.clean_epochs, epochs)
            # `Free` takes several optimizer steps per batch, but only after the clean epochs.
            counted = clean + (epochs - clean) * callback.objective.steps_per_batch
            steps = int(share * _planned(callback, counted))
        self.epsilon_warmup = (start, steps)

    def note(self):
        """Returns a message about a default that was guessed, or `None`."""
        if not self.is_guessed:
            return None
        return (
            "the length of the data is not known. Epsilon grows over the first "
            f"{self.epsilon_warmup[1]} optimizer steps; pass `warmup` for another number."
        )

    def shortfall(self, iterations):
        """Returns a warning if the training ended before a guessed warm-up did, or `None`."""
        steps = self.epsilon_warmup[1]
        if not self.is_guessed or iterations >= steps:
            return None
        return (
            f"Epsilon grows over the first {steps} optimizer steps if the length of the data is "
            "not known, and the training ended earlier: it never reached the full epsilon. Pass "
            "`warmup` as a smaller number of steps, or `steps_per_epoch` to `fit`. Received: "
            f"{iterations:g} optimizer steps, after which epsilon was {iterations / steps:.0%} of "
            "its full size"
        )


def _planned(callback, epochs):
    """Returns the number of optimizer steps in `epochs` epochs of this `fit`."""
    if callback.params.get("steps") is None:
        raise ValueError(
            "The warm-up is a share of the training, or follows clean epochs, but the length of "
            "the data is not known. Pass `steps_per_epoch` to `fit`, or `warmup` as a number of "
            f"optimizer steps (0 for none, None for {DEFAULT_STEPS}) and clean_epochs=0. Received: "
            f"warmup={callback.warmup!r}, clean_epochs={callback.clean_epochs} and data of unknown "
            "length"
        )
    # In mixed precision a LossScaleOptimizer wraps the optimizer that accumulates gradients.
    optimizer = getattr(callback.model.optimizer, "inner_optimizer", callback.model.optimizer)
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    return int(epochs * callback.params["steps"] / accumulated)
