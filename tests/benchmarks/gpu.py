"""Everything whose speed on a GPU depends on launches: one command, under five minutes, one table.

Run by hand: python -m tests.benchmarks.gpu
Without a GPU, to see that it runs: python -m tests.benchmarks.gpu --device cpu --tiny

A row is one call. "kernels" are the operators that it runs without views and allocations, as many as a GPU launches at
least ("-" where threads of its own run them); "ms" is the median time of calls that end with the device; "waits" says
whether the host waits for the device inside (CUDA only); "memory" is the peak beyond what was there (CUDA only).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import perceptok as pt
from perceptok.depth import (
    AuroraConfig,
    DepthCodec,
    DepthVQVAE,
    MapDataset,
    ReadOptions,
    TrainingConfig,
    decode_records,
    encode_files,
    find_maps,
    read_depth_records,
)
from perceptok.losses import distillation_loss
from perceptok.scenes import ProceduralDepthMaps
from perceptok.vocabulary import VocabularyAlignment
from tests.operators import RecordedOperators

Call = Callable[[], object]


class Row(NamedTuple):
    """A line of the table."""

    name: str
    kernels: float | None
    ms: float
    waits: str
    memory_mb: float | None
    remark: str = ""


class KnownTokens(dict[str, int]):
    """A tokenizer as far as `PerceptionVocabulary` needs one."""

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return self


class Benchmark:
    """Measures calls on a device."""

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device = torch.device(device)
        self.tiny = tiny
        self.rounds = 2 if tiny else 20

    def measure(self, name: str, call: Call, remark: str = "", rounds: int | None = None) -> Row:
        """One row: the call is made once before anything is measured."""
        call()
        with RecordedOperators() as operators:
            call()
        memory, waits = None, "-"
        if self.device.type == "cuda":
            self.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            self.synchronize()
            memory = (torch.cuda.max_memory_allocated() - before) / 2**20
            waits = self.find_waits(call)
        times = []
        for _ in range(rounds or self.rounds):
            self.synchronize()
            start = time.perf_counter()
            call()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return Row(name, len(operators.kernels) or None, 1e3 * statistics.median(times), waits, memory, remark)

    def find_waits(self, call: Call) -> str:
        """Whether the host waits for the device inside a call."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return "yes"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return "no"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def list_rows(self) -> Iterator[Row]:
        """All rows, as they are measured."""
        torch.manual_seed(0)
        yield from self.measure_codecs()
        yield from self.measure_folder()
        yield from self.measure_training()
        yield from self.measure_loss()
        yield from self.measure_processor()

    def measure_codecs(self) -> Iterator[Row]:
        """Encoding and decoding: the default batch beside fixed ones, the reference's networks, and the CPU's codes."""
        count = 4 if self.tiny else 512
        samples = ProceduralDepthMaps(seed=5, length=min(count, 32))
        maps = torch.stack([torch.from_numpy(values) for values, _ in samples])
        expected = DepthCodec.from_pretrained().encode(maps)
        codec = DepthCodec.from_pretrained().to(self.device)
        found = codec.encode(maps.to(self.device))
        equal = float((found.cpu() == expected).float().mean())
        maps = maps.repeat(count // len(maps), 1, 1).to(self.device)
        sizes = (2,) if self.tiny else (16, 64, 256)
        for batch_size in (None, *sizes):
            name = "default" if batch_size is None else str(batch_size)
            remark = f"codes as on the CPU: {equal:.2%}; default batch {codec.choose_batch_size()}"
            yield self.measure(
                f"encode {count} maps, batch {name}",
                lambda size=batch_size: codec.encode(maps, batch_size=size),  # type: ignore[misc]
                remark if batch_size is None else "",
            )
        codes = codec.encode(maps)
        for batch_size in (None, *sizes):
            name = "default" if batch_size is None else str(batch_size)
            yield self.measure(
                f"decode {count} maps, batch {name}",
                lambda size=batch_size: codec.decode(codes, batch_size=size),  # type: ignore[misc]
            )
        reference = DepthCodec(DepthVQVAE(AuroraConfig())).to(self.device)
        inputs = 2 * maps[: max(sizes), None] - 1
        with torch.no_grad():
            yield self.measure(
                f"reference networks, encoder, batch {len(inputs)}", lambda: reference.model.compute_features(inputs)
            )

    def measure_folder(self) -> Iterator[Row]:
        """A folder of PNG maps to codes and back to PNG, beside the reference's networks one map at a time."""
        count = 4 if self.tiny else 512
        codec = DepthCodec.from_pretrained().to(self.device)
        reference = DepthVQVAE(AuroraConfig()).eval().to(self.device)
        with tempfile.TemporaryDirectory() as folder:
            maps = Path(folder) / "maps"
            maps.mkdir()
            scenes = ProceduralDepthMaps(seed=7, length=min(count, 32))
            for index in range(count):
                values, valid = scenes[index % len(scenes)]
                pt.DepthMap(values, np.ones_like(valid), "inverse").write(maps / f"{index:03}.png")
            for name, call in (
                ("", lambda: convert_folder(codec, maps, Path(folder))),
                (", reference one by one", lambda: convert_by_reference(reference, maps, Path(folder) / "reference")),
            ):
                yield self.measure(f"folder of {count} PNG maps{name}", call, rounds=3)

    def measure_training(self) -> Iterator[Row]:
        """An update of the codec's training, from the difference of two lengths."""
        maps = MapDataset.build({"procedural": ProceduralDepthMaps(seed=0, length=4 if self.tiny else 32)})
        small = {"architecture": "grid", "widths": [16, 32], "blocks": [1, 1], "heads": 2}
        for name, precision in (("float32", "no"), ("bfloat16", "bf16")):
            settings = {"batch_size": 2 if self.tiny else 16, "mixed_precision": precision, "min_perplexity": 0}
            if self.tiny:
                settings["model"] = small
            kernels, seconds = [], []
            lengths = (2, 4) if self.tiny else (10, 60)
            for steps in lengths:
                config = TrainingConfig.from_dict({**settings, "max_steps": steps, "eval_steps": steps})
                start = time.perf_counter()
                with RecordedOperators() as operators:
                    pt.train_depth_codec(config, maps, cpu=self.device.type == "cpu")
                self.synchronize()
                kernels.append(len(operators.kernels))
                start = time.perf_counter()
                pt.train_depth_codec(config, maps, cpu=self.device.type == "cpu")
                self.synchronize()
                seconds.append(time.perf_counter() - start)
            steps = lengths[1] - lengths[0]
            yield Row(
                f"update of the codec, batch {settings['batch_size']}, {name}",
                (kernels[1] - kernels[0]) / steps,
                1e3 * (seconds[1] - seconds[0]) / steps,
                "-",
                None,
            )

    def measure_loss(self) -> Iterator[Row]:
        """Forward and backward of the distillation loss beside `F.cross_entropy` of the same tokens."""
        batch, length, width = (2, 8, 600) if self.tiny else (4, 2048, 32_500)
        vocab = make_vocabulary(width)
        alignment = VocabularyAlignment.identity(128)
        codes = torch.randint(128, (batch, length), device=self.device)
        soft = torch.rand(batch, length, 128, device=self.device).softmax(-1)
        ids = vocab.ids(pt.tokens.DEPTH).to(self.device)[codes].flatten()
        for dtype in (torch.float32, torch.bfloat16):
            logits = torch.randn(batch, length, width, device=self.device).to(dtype).requires_grad_()

            def run(compute: Callable[[], torch.Tensor], logits: torch.Tensor = logits) -> None:
                logits.grad = None
                compute().backward()  # type: ignore[no-untyped-call]

            name = f"{tuple(logits.shape)}, {str(dtype).removeprefix('torch.')}"
            yield self.measure(
                f"cross entropy {name}",
                lambda run=run, logits=logits: run(lambda: F.cross_entropy(logits.flatten(0, 1), ids)),  # type: ignore[misc]
            )
            for kind, teacher in (("hard", codes), ("soft", soft)):
                yield self.measure(
                    f"distillation loss, {kind}, {name}",
                    lambda run=run, logits=logits, teacher=teacher: run(  # type: ignore[misc]
                        lambda: distillation_loss(logits, teacher, alignment, vocab)
                    ),
                )

    def measure_processor(self) -> Iterator[Row]:
        """A step of the logits processor inside a block, beside a copy of the scores."""
        for width in (600,) if self.tiny else (32_000, 128_000):
            vocab = make_vocabulary(width)
            processor = pt.PerceptionLogitsProcessor(vocab)
            block = [vocab.start_id(pt.tokens.DEPTH), *[vocab.token_id(pt.tokens.DEPTH, 5)] * 50]
            for batch in (1,) if self.tiny else (1, 16, 256):
                ids = torch.tensor([[0, 1, 2, *block]] * batch, device=self.device)
                scores = torch.randn(batch, width, device=self.device)
                expected = processor(ids.cpu(), scores.cpu())
                equal = torch.equal(processor(ids, scores).cpu(), expected)
                yield self.measure(
                    f"processor, {width} tokens, batch {batch}",
                    lambda ids=ids, scores=scores, processor=processor: processor(ids, scores),  # type: ignore[misc]
                    f"as on the CPU: {'yes' if equal else 'NO'}",
                )
                yield self.measure(f"copy of the scores, {width}, batch {batch}", scores.clone)


def convert_folder(codec: DepthCodec, maps: Path, output: Path) -> None:
    """A folder of PNG maps to codes and back to PNG."""
    encode_files(codec, find_maps([maps], ReadOptions(kind="inverse")), output / "codes.jsonl", force=True)
    decode_records(codec, read_depth_records(output / "codes.jsonl"), output / "ours", force=True)


@torch.no_grad()
def convert_by_reference(model: DepthVQVAE, maps: Path, output: Path) -> None:
    """The same with networks that are called one map at a time in plain PyTorch."""
    output.mkdir(exist_ok=True)
    for path in sorted(maps.iterdir()):
        grey = np.asarray(Image.open(path)).astype(np.float32) / 65535
        inputs = torch.from_numpy(grey)[None, None].to(model.codebook.device) * 2 - 1
        codes = model.compute_distances(model.compute_features(inputs)).argmin(-1)
        decoded = model.reconstruct(model.look_up_vectors(codes))[0, 0]
        levels = ((decoded + 1) / 2).clamp(0, 1).mul(65535).round().cpu().numpy().astype(np.uint16)
        Image.fromarray(levels).save(output / path.name)


def make_vocabulary(width: int) -> pt.PerceptionVocabulary:
    """Numbered words, then the perception tokens, and the end of sequence at 1: `width` ids."""
    tokens = [*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens]
    names = ["<s>", "</s>", *(f"word{number}" for number in range(width - 2 - len(tokens))), *tokens]
    return pt.PerceptionVocabulary.from_tokenizer(KnownTokens({name: index for index, name in enumerate(names)}))


def main(arguments: list[str]) -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU, to test the script")
    options = parser.parse_args(arguments)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"torch {torch.__version__}, {name}\n")
    print("| | kernels | ms | waits | memory, MB | |\n|---|---|---|---|---|---|")
    for row in Benchmark(options.device, tiny=options.tiny).list_rows():
        memory = "-" if row.memory_mb is None else f"{row.memory_mb:.0f}"
        kernels = "-" if row.kernels is None else f"{row.kernels:.0f}"
        print(f"| {row.name} | {kernels} | {row.ms:.3f} | {row.waits} | {memory} | {row.remark} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
