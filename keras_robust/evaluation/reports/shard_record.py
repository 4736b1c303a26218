"""What a report of a shard holds beside its numbers, so that shards can be merged."""

import dataclasses

import numpy as np

from keras_robust.evaluation.row_results import RowResults
from keras_robust.evaluation.shard import Shard


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """The facts from which `RobustnessReport.merge` computes the numbers of a whole evaluation.

    Args:
        index: int, the number of the shard.
        count: int, the number of shards.
        num_examples: int, the number of examples in all shards.
        evaluation: dict of str, a digest of the model, of the data and of each setting.
        uses_gradients: list of 0 or 1, whether each attack uses gradients.
        num_outside: list of int, how many points of each attack left the threat model.
        sizes: list of lists of numbers, the fields of `threat_models.units.Size` for each input.
        rows: dict of lists, the fields of `RowResults` but `numbers`, with 0 and 1 for bools.
    """

    index: int
    count: int
    num_examples: int
    evaluation: dict
    uses_gradients: list
    num_outside: list
    sizes: list
    rows: dict

    @classmethod
    def of(cls, shard, evaluation, worst, plan, reports, sizes):
        """Returns the record of a shard, from the objects of its evaluation."""
        rows = RowResults.of(worst)._asdict()
        del rows["numbers"]
        kept = {name: None if part is None else _plain(part) for name, part in rows.items()}
        return cls(
            shard.index,
            shard.count,
            evaluation["num_examples"],
            evaluation["digests"],
            [int(planned.attack.uses_gradients) for planned in plan],
            [report.num_outside for report in reports],
            [list(size) for size in sizes],
            kept,
        )

    @property
    def shard(self):
        """The `Shard`."""
        return Shard(self.index, self.count)

    def results(self):
        """Returns the `RowResults`, with the rows of the examples in the whole data."""
        rows = {name: None if part is None else np.array(part) for name, part in self.rows.items()}
        for name in ("robust", "proved"):
            rows[name] = rows[name].astype("bool")
        if rows["distances"] is not None:
            # JSON has no infinity, so a file holds "inf".
            rows["distances"] = rows["distances"].astype("float64")
        return RowResults(**rows, numbers=self.shard.rows(self.num_examples))


def _plain(array):
    return (array.astype("int64") if array.dtype == "bool" else array).tolist()
