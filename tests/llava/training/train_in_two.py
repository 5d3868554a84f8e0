"""One of the processes that test_distributed starts: a short run under DDP, or under FSDP2 as it is shipped."""

import json
import os
import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "train.json").read_text())
    sharded = settings.pop("sharded")
    if sharded:
        # What accelerate's launcher does with the file.
        shipped = yaml.safe_load((files("perceptok.llava.training") / "launch" / "fsdp2.yaml").read_text())
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ |= {key.upper(): str(value).lower() for key, value in shipped["fsdp_config"].items()}
        os.environ["FSDP_AUTO_WRAP_POLICY"] = shipped["fsdp_config"]["fsdp_auto_wrap_policy"]
        os.environ["FSDP_STATE_DICT_TYPE"] = shipped["fsdp_config"]["fsdp_state_dict_type"]
    warnings.simplefilter("ignore")
    import accelerate
    from torch import distributed

    kinds: set[str] = set()
    if sharded:
        # accelerate offers FSDP to accelerators alone; told that this is one, its code runs on two CPUs and gloo.
        begin = accelerate.state.AcceleratorState.__init__

        def as_accelerator(self: Any, *given: Any, **named: Any) -> None:
            accelerate.PartialState(cpu=True).distributed_type = accelerate.DistributedType.MULTI_GPU
            begin(self, *given, **named)
            kinds.add(self.distributed_type.value)

        accelerate.state.AcceleratorState.__init__ = as_accelerator

    from perceptok.llava.training.finetuning import finetune
    from perceptok.llava.training.recipe import FinetuneConfig

    result = finetune(FinetuneConfig.from_dict(settings))
    rank = int(os.environ["RANK"])
    (folder / f"rank{rank}.json").write_text(json.dumps({"steps": result.steps, "sharded": "FSDP" in kinds}))
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
