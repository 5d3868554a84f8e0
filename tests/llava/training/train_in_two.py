"""One of the processes that test_distributed starts: a short run under FSDP2 as it is shipped, and its resumption."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "train.json").read_text())
    warnings.simplefilter("ignore")
    import accelerate
    import torch
    from safetensors.torch import load_file
    from torch import distributed

    kinds: set[str] = set()
    # accelerate offers FSDP to accelerators alone; where it takes the CPU for one, its code runs on two CPUs and gloo.
    begin = accelerate.state.AcceleratorState.__init__

    def as_accelerator(self: Any, *given: Any, **named: Any) -> None:
        accelerate.PartialState(cpu=True).distributed_type = accelerate.DistributedType.MULTI_GPU
        begin(self, *given, **named)
        kinds.add(self.distributed_type.value)

    accelerate.state.AcceleratorState.__init__ = as_accelerator

    from perceptok.llava import FinetuneConfig, finetune
    from perceptok.llava.training.trainer import find_last_checkpoint

    config = FinetuneConfig.from_dict(settings)
    run, rank = Path(config.output_dir), int(os.environ["RANK"])
    result = finetune(config)
    # As if it had been killed in its last step: it goes on from the checkpoint before, in shards.
    first = load_file(run / "adapter" / "adapter_model.safetensors")
    distributed.barrier()
    if rank == 0:
        shutil.rmtree(run / "adapter")
        shutil.rmtree(run / "checkpoint-3", ignore_errors=True)
    distributed.barrier()
    resumed = int(find_last_checkpoint(run).name.removeprefix("checkpoint-"))  # type: ignore[union-attr]
    finetune(config)
    again = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(torch.allclose(weight, again[name], atol=1e-6) for name, weight in first.items())
    report = {"steps": result.steps, "sharded": "FSDP" in kinds, "resumed": resumed}
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
