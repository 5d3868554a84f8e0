"""A process of test_alignment_accumulator: sums its half, and prints the sum of all processes."""

import json
import sys
from pathlib import Path

from torch import distributed

from perceptok.vocabulary import AlignmentAccumulator
from tests.vocabulary.test_alignment_accumulator import batch

if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    gathered = AlignmentAccumulator(5, 7)
    for seed in (rank, rank + 2):
        soft, _, logs = batch(seed)
        gathered.update(soft, logs)
    first, second = gathered.all_reduce(), gathered.all_reduce()
    result = {
        "first": first.cost.tolist(),
        "second": second.cost.tolist(),
        "positions": [first.positions, second.positions, gathered.positions],
    }
    (Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(result))
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
