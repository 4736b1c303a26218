"""Shards: parts of the examples of an evaluation, for processes that share nothing."""

import re
import typing

import numpy as np


class Shard(typing.NamedTuple):
    """One of `count` parts of the examples: the rows `index`, `index + count`, and so on.

    Data that are sorted by class give shards of about the same difficulty. `str(shard)` is the text
    that `of` takes.

    Fields: `index`, int from 0 to `count - 1`; `count`, int.
    """

    index: int
    count: int

    @classmethod
    def of(cls, text):
        """Returns the shard for a str such as `"3/16"`, or raises ValueError."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(text))
        shard = cls(*map(int, found.groups())) if found else None
        if shard is None or shard.index >= shard.count:
            raise ValueError(
                "Expected a shard as its number and the number of shards: "
                f'"0/16", "1/16", ..., "15/16". Received: shard={text!r}'
            )
        return shard

    def rows(self, size):
        """Returns the int array of its rows of `size` examples, at least one."""
        if self.count > size:
            raise ValueError(
                f"Expected at most as many shards as examples, {size}. Received: shard={self}"
            )
        # A stride and not a block, because data are often sorted by class.
        return np.arange(self.index, size, self.count)

    def __str__(self):
        return f"{self.index}/{self.count}"
