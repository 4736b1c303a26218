"""The base class of threat models that apply another one to a layer or to several inputs."""

import copy

from keras_robust.threat_models.threat_model import ThreatModel
from keras_robust.threat_models.threat_model import registry


class ThreatModelWrapper(ThreatModel):
    """Delegates to another threat model all methods that a subclass does not override.

    A subclass has at least one more argument, and writes `bind`.

    Args:
        threat_model: a `ThreatModel` for one tensor, or its name.

    Raises:
        ValueError: for a threat model that is itself for several inputs or for a layer, and for an
            `epsilon` with one value per example.
    """

    def __init__(self, threat_model):
        self.threat_model = get_plain(threat_model)
        epsilon = self.threat_model.epsilon
        # Refuse an array with one value per example. `Linf` accepts an array over features.
        if getattr(epsilon, "ndim", 0):
            self.threat_model.check_shape((None, epsilon.shape[-1]))
        self._given = {"threat_model": self.threat_model}

    @property
    def epsilon(self):
        return self.threat_model.epsilon

    @property
    def is_scheduled(self):
        return self.threat_model.is_scheduled

    @property
    def bounds(self):
        return self.threat_model.bounds

    @property
    def has_sparse_steps(self):
        return self.threat_model.has_sparse_steps

    @property
    def radius(self):
        return self.threat_model.radius

    def at(self, step):
        return self.around(self.threat_model.at(step))

    def with_epsilon(self, epsilon):
        return self.around(self.threat_model.with_epsilon(epsilon))

    def with_bounds(self, bounds):
        return self.around(self.threat_model.with_bounds(bounds))

    def around(self, threat_model):
        """Returns a copy that wraps another threat model."""
        other = copy.copy(self)
        other.threat_model = threat_model
        other._given = {**self._given, "threat_model": threat_model}
        return other

    def bind(self, model, inputs):
        raise NotImplementedError

    def check_shape(self, shape):
        self.threat_model.check_shape((None, *shape[1:]))

    def epsilon_for_rows(self, rows, x):
        # The radius has no axis for the examples.
        return self.radius

    def project(self, x_adv, x):
        return self.threat_model.project(x_adv, x)

    def steepest_direction(self, gradient):
        return self.threat_model.steepest_direction(gradient)

    def linear_maximization_oracle(self, direction, x):
        return self.threat_model.linear_maximization_oracle(direction, x)

    def random_start(self, x, seed):
        return self.threat_model.random_start(x, seed)

    def random_start_on_sphere(self, x, seed):
        return self.threat_model.random_start_on_sphere(x, seed)

    def project_onto_hyperplane(self, x, gradient, change):
        return self.threat_model.project_onto_hyperplane(x, gradient, change)

    def relative_step(self, share, x):
        return self.threat_model.relative_step(share, x)

    def with_radii(self, radii, x):
        return self.around(self.threat_model.with_radii(radii, x))

    def distance(self, x_adv, x):
        return self.threat_model.distance(x_adv, x)

    def step(self, x_adv, gradient, step_size):
        return self.threat_model.step(x_adv, gradient, step_size)

    def clip(self, x):
        return self.threat_model.clip(x)

    def contains(self, x_adv, x, tolerance=1e-5):
        return self.threat_model.contains(x_adv, x, tolerance)


def get_plain(identifier):
    """Returns the threat model, or raises ValueError unless it is for a single tensor."""
    threat_model = registry.get(identifier)
    if type(threat_model).bind is not ThreatModel.bind:
        raise ValueError(
            "Threat models for several inputs or for a layer hold threat models for one tensor, "
            f"such as Linf(0.1). Received: {threat_model!r}"
        )
    return threat_model
