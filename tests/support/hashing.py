"""The random bits of `attacks.random_bits` with Python integers."""

_MASK = 2**32 - 1


def key(seed):
    """The key of one example from its seed, a pair of integers."""
    return mixed(mixed(int(seed[0]) & _MASK) ^ (int(seed[1]) & _MASK))


def draw(one, counter, count):
    """A list of `count` integers of 32 bits."""
    start = mixed(counter * 0x9E3779B9 & _MASK)
    return [mixed(one ^ mixed((start + place) & _MASK)) for place in range(count)]


def below(bits, limit):
    return int((bits >> 9) / 2**23 * limit)


def sign(bits):
    return 1.0 if bits >> 31 else -1.0


def mixed(bits):
    """The hash `lowbias32`."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D & _MASK
    bits ^= bits >> 15
    bits = bits * 0x846CA68B & _MASK
    return bits ^ bits >> 16
