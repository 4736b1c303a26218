"""Cheap random bits: a hash of the seed of an example and a counter."""

from keras import ops

# 2**32 divided by the golden ratio; multiples of it are spread evenly.
_GOLDEN = 0x9E3779B9
# The multipliers of `lowbias32`.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B


def make_keys(seed, batch_size):
    """Returns one key per example, uint32 `(batch_size,)`.

    Args:
        seed: int32 tensor `(2,)`, from which every position in the batch gets a stream of its own,
            or `(batch_size, 2)` with one stream per example.
        batch_size: int or int32 tensor `()`.
    """
    seed = ops.cast(seed, "uint32")
    if len(seed.shape) == 1:
        places = ops.cast(ops.arange(batch_size, dtype="int32"), "uint32")
        return _mixed(ops.bitwise_xor(_mixed(seed[0]), _mixed(seed[1]) + places))
    return _mixed(ops.bitwise_xor(_mixed(seed[:, 0]), seed[:, 1]))


def draw(keys, counter, count):
    """Returns random bits, uint32 `(batch_size, count)`.

    The bits depend on the key of the example and on `counter` alone, so that a loop over thousands
    of steps need not store random numbers. The hash is `lowbias32` by Wellons, applied twice. It is
    not cryptographically secure.

    Args:
        keys: uint32 tensor `(batch_size,)`, from `make_keys`.
        counter: int or int32 tensor `()`, a different one for every call.
        count: int, the number of uint32 values per example.
    """
    counter = _mixed(ops.cast(counter, "uint32") * _constant(_GOLDEN))
    places = _mixed(counter + ops.cast(ops.arange(count, dtype="int32"), "uint32"))
    return _mixed(ops.bitwise_xor(ops.expand_dims(keys, -1), places))


def below(bits, limit):
    """Returns random integers from 0 to `limit - 1` as float32; `limit` is a float32 tensor."""
    # 23 bits are exact in float32, so that no fraction is rounded up to 1.
    fractions = ops.cast(ops.right_shift(bits, _constant(9)), "float32") * 2.0**-23
    return ops.floor(fractions * limit)


def is_heads(bits):
    """Returns a fair coin flip for each entry of `bits`, bool."""
    return bits >= _constant(2**31)


def signs(bits):
    """Returns -1 or 1 for each entry of `bits`, float32."""
    return 2.0 * ops.cast(is_heads(bits), "float32") - 1.0


def _mixed(bits):
    """Returns a hash in which every bit depends on every bit of the uint32 argument."""
    for shift, factor in ((16, _FIRST), (15, _SECOND)):
        bits = _shifted(bits, shift) * _constant(factor)
    return _shifted(bits, 16)


def _shifted(bits, shift):
    return ops.bitwise_xor(bits, ops.right_shift(bits, _constant(shift)))


def _constant(value):
    return ops.convert_to_tensor(value, dtype="uint32")
