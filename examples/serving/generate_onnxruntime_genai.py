"""Convert a model to ONNX, generate with onnxruntime-genai under the Lark grammar, and print what came.

pip install 'perceptok[onnx]'
python examples/serving/generate_onnxruntime_genai.py [--smollm2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import onnxruntime_genai as og
from make_model import extend_smollm2, make_tiny_model
from transformers import AutoTokenizer

import perceptok as pt

GRAMMARS = {
    "a block first": pt.decoding.GrammarConfig(force_block="first", max_blocks=1),
    "a box first": pt.decoding.GrammarConfig(first="box"),
    "anything in the grammar": pt.decoding.GrammarConfig(),
}


def generate(model: og.Model, prompt: str, grammar: str | None, *, seed: int, max_new_tokens: int) -> list[int]:
    """The ids of one sampled answer."""
    ids = og.Tokenizer(model).encode(prompt)
    parameters = og.GeneratorParams(model)
    length = len(ids) + max_new_tokens
    parameters.set_search_options(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, random_seed=seed, max_length=length
    )
    if grammar is not None:
        parameters.set_guidance("lark_grammar", grammar)
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token_id) for token_id in generator.get_sequence(0)[len(ids) :]]


def main() -> None:
    """Convert, generate under every grammar and without one, and print the evidence."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint with perception tokens; default: a tiny one")
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct, extended")
    parser.add_argument("--answers", type=int, default=4, help="per grammar")
    parser.add_argument("--max-new-tokens", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.model or Path(name) / "model"
        if arguments.model is None:
            (extend_smollm2 if arguments.smollm2 else make_tiny_model)(folder)
        model = og.Model(str(pt.llava.convert_checkpoint(folder, Path(name) / "onnx", format="onnx")))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        vocab = pt.PerceptionVocabulary.from_pretrained(folder, tokenizer)
        print(f"onnxruntime-genai {og.__version__}")
        for title, config in {**GRAMMARS, "without a grammar": None}.items():
            grammar = config and pt.decoding.build_lark_grammar(vocab, config, tokenizer=tokenizer)
            start = time.perf_counter()
            answers = [
                generate(model, "The depth map", grammar, seed=seed, max_new_tokens=arguments.max_new_tokens)
                for seed in range(arguments.answers)
            ]
            rate = sum(map(len, answers)) / (time.perf_counter() - start)
            parsed = [pt.parse_generation(tokenizer.decode(answer)) for answer in answers]
            blocks = [block for answer in parsed for block in answer.blocks]
            boxes = sum(len(answer.boxes) for answer in parsed)
            problems = [problem.message for answer in parsed for problem in answer.problems]
            sizes = ", ".join(sorted({str(block.size) for block in blocks}))
            codes = f", all of {sizes} codes" if sizes else ""
            print(f"{title}: {len(blocks)} blocks{codes}; {boxes} boxes, {rate:.0f} tokens/s")
            print(
                f"  {len(problems)} problems, {sum(len(answer) == arguments.max_new_tokens for answer in answers)} cut"
            )


if __name__ == "__main__":
    main()
