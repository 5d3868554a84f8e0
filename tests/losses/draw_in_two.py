"""A process of test_curriculum_sampler: prints the batches of Accelerate's loaders."""

import json
import sys
from pathlib import Path

from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from torch import distributed
from torch.utils.data import DataLoader

from tests.losses.test_curriculum_sampler import dataset, sampler

WAYS = {
    "shard": {},
    "workers": {},
    "split": {"split_batches": True},
    "dispatch": {"dispatch_batches": True},
    "dispatch_split": {"dispatch_batches": True, "split_batches": True},
}

if __name__ == "__main__":
    result = {}
    for name, options in WAYS.items():
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
        workers = 2 if name == "workers" else 0
        loader = accelerator.prepare(DataLoader(dataset(), batch_sampler=sampler(), num_workers=workers))
        result[name] = [batch.tolist() for batch in loader]
        result[f"{name}_skipped"] = [batch.tolist() for batch in skip_first_batches(loader, 5)]
    (Path(sys.argv[1]) / f"rank{accelerator.process_index}.json").write_text(json.dumps(result))
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
