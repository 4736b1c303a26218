"""The networks of `benchmarks.auto_attack_networks` and of `benchmarks.turns` in PyTorch.

Each function takes an iterator over the weights of the Keras model, in the order of `get_weights`.
"""

import numpy as np
import torch
from torch import nn

_EPSILON = 1e-3  # What Keras adds to a variance; PyTorch adds 1e-5.


class Scale(nn.Module):
    """Multiplies the inputs."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class ChannelsLast(nn.Module):
    """Orders images as Keras does, before they are flattened."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Residual(nn.Module):
    """Adds the inputs to what the inner layers make of them."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


class GlobalAverage(nn.Module):
    """Averages over the place."""

    def forward(self, x):
        return x.mean((2, 3))


class PlacedDense(nn.Module):
    """A dense layer for each patch, whose bias depends on the place of the patch."""

    def __init__(self, weights):
        super().__init__()
        self.kernel, self.bias = _parameters(weights, 2)

    def forward(self, x):
        return x @ self.kernel + self.bias


class SelfAttention(nn.Module):
    """The `MultiHeadAttention` of Keras, written out."""

    def __init__(self, weights):
        super().__init__()
        self.queries, self.keys, self.values, self.outputs = (
            nn.ParameterList(_parameters(weights, 2)) for _ in range(4)
        )

    def forward(self, x):
        queries, keys, values = (
            torch.einsum("bpc,chk->bhpk", x, kernel) + bias[:, None]
            for kernel, bias in (self.queries, self.keys, self.values)
        )
        scores = queries @ keys.transpose(2, 3) / keys.shape[-1] ** 0.5
        kernel, bias = self.outputs
        return torch.einsum("bhpk,hkc->bpc", scores.softmax(-1) @ values, kernel) + bias


def _parameters(weights, count):
    return [
        nn.Parameter(torch.from_numpy(np.ascontiguousarray(next(weights)))) for _ in range(count)
    ]


def _filled(layer, **values):
    for name, value in values.items():
        getattr(layer, name).data = torch.from_numpy(np.ascontiguousarray(value))
    return layer


def _convolution(weights, stride=1, padding=0):
    kernel, bias = next(weights).transpose(3, 2, 0, 1), next(weights)
    layer = nn.Conv2d(*kernel.shape[1::-1], kernel.shape[2], stride, padding)
    return _filled(layer, weight=kernel, bias=bias)


def _dense(weights):
    kernel, bias = next(weights), next(weights)
    return _filled(nn.Linear(*kernel.shape), weight=kernel.T, bias=bias)


def _layer_norm(weights):
    scale, offset = next(weights), next(weights)
    return _filled(nn.LayerNorm(len(scale), _EPSILON), weight=scale, bias=offset)


def _normalized(weights, stride, padding):
    convolution = _convolution(weights, stride, padding)
    names = ("weight", "bias", "running_mean", "running_var")
    values = {name: next(weights) for name in names}
    norm = nn.BatchNorm2d(len(values["bias"]), _EPSILON)
    return nn.Sequential(convolution, _filled(norm, **values))


def two_convolutions(weights):
    """Returns the network of `benchmarks.turns.build`."""
    return nn.Sequential(
        *(_convolution(weights, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(_convolution(weights, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(ChannelsLast(), nn.Flatten(), _dense(weights), nn.ReLU(), _dense(weights)),
    )


def convolutional(weights, activation=nn.ReLU):
    """Returns two convolutions and two dense layers."""
    return nn.Sequential(
        *(_convolution(weights, 2, 1), activation()),
        *(_convolution(weights, 2, 1), activation()),
        *(ChannelsLast(), nn.Flatten(), _dense(weights), activation(), _dense(weights)),
    )


def gelu(weights):
    """Returns the same with another activation."""
    return convolutional(weights, nn.GELU)


def rescaled(weights):
    """Returns the same for inputs from 0 to 255, behind what makes these of inputs up to 1."""
    return nn.Sequential(Scale(255.0), Scale(1.0 / 255.0), convolutional(weights))


def residual(weights):
    """Returns two residual blocks with BatchNorm."""
    parts = []
    for _ in range(2):
        parts += [_normalized(weights, 2, 1), nn.ReLU()]
        inner = (_normalized(weights, 1, 1), nn.ReLU(), _normalized(weights, 1, 1))
        parts += [Residual(*inner), nn.ReLU()]
    return nn.Sequential(*parts, GlobalAverage(), _dense(weights))


def attention(weights):
    """Returns a block of a vision transformer."""
    return nn.Sequential(
        *(_convolution(weights, 7), ChannelsLast(), nn.Flatten(1, 2), PlacedDense(weights)),
        Residual(_layer_norm(weights), SelfAttention(weights)),
        Residual(_layer_norm(weights), _dense(weights), nn.ReLU(), _dense(weights)),
        *(nn.Flatten(), _dense(weights)),
    )


def build(name, weights):
    """Returns a network by the name of its function here."""
    return globals()[name](iter(weights)).eval().requires_grad_(False)
