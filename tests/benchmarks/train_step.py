"""A process of test_llava: some training steps, ours or the stock Trainer's, and their cost."""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import resource

    import torch
    import transformers

    import perceptok as pt
    from perceptok.llava.training.finetuning import prepare_run
    from perceptok.llava.training.objective import Objective
    from perceptok.llava.training.samples import IDS, Collator
    from perceptok.llava.training.trainer import MicroBatches, PerceptionTrainer, make_schedule
    from perceptok.losses import CurriculumSampler
    from tests.llava.records import write_some_records
    from tests.llava.tiny import save_llava_of

    kind, steps = sys.argv[1], int(sys.argv[2])
    folder = Path(tempfile.mkdtemp())
    codec = pt.DepthCodec.from_pretrained()
    records = write_some_records(folder / "data", codec, 24)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9}
    base = save_llava_of(folder / "base", {**shape, "num_key_value_heads": 9}, side=336, rows=32_064)
    config = pt.llava.FinetuneConfig(
        model_name_or_path=str(base), records=(str(records),), output_dir=str(folder / "run"), max_steps=steps,
        per_device_train_batch_size=2, dataloader_num_workers=0, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    ready = prepare_run(config)
    args = transformers.TrainingArguments(
        output_dir=str(folder / "out"), max_steps=steps, per_device_train_batch_size=2, report_to="none", use_cpu=True,
        remove_unused_columns=False, label_names=["labels"],
    )  # fmt: skip
    collator = Collator(ready.processor, ready.vocab, config.frame_rule)
    curriculum = CurriculumSampler(
        ready.samples.sizes, make_schedule(config.curriculum, ready.samples.sizes), total_steps=steps, batch_size=2
    )
    batches = MicroBatches(curriculum, batch_size=2)
    trainer: Any
    if kind == "ours":
        objective = Objective(config.objective, ready.vocab, codec)
        trainer = PerceptionTrainer(ready.model, config, ready.samples, batches, collator, objective, codec)
        loader = trainer.get_train_dataloader()
    else:

        def plain(samples: Any) -> dict[str, Any]:
            return {name: value for name, value in collator(samples).items() if name not in IDS}

        trainer = transformers.Trainer(ready.model, args, train_dataset=ready.samples, data_collator=plain)
        loader = torch.utils.data.DataLoader(ready.samples, batch_sampler=batches, collate_fn=plain)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    iterator = iter(loader)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = []
    for _ in range(steps):
        start = time.process_time()
        (batch,), items = trainer.get_batch_samples(iterator, 1, torch.device("cpu"))
        trainer.training_step(ready.model, batch, items)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": sorted(times)[len(times) // 2], "least": min(times), "before": before, "peak": peak}))
