"""Model cards: what an adapter or a merged model is, and how it is used, as the README.md of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from perceptok.llava.framing import FrameRule
from perceptok.tokens import DEPTH, PIXEL
from perceptok.vocabulary import PerceptionVocabulary

__all__ = ["CARD", "make_card"]

CARD = "README.md"
"""The file's name, by which the Hub knows it."""

_TEXT = """# {title}

{description}

| | |
|---|---|
{facts}

## Use

```python
import perceptok as pt

pipe = pt.PerceptionPipeline.from_pretrained("{name}"{base_argument})  # this folder, or its id on the Hub
answer = pipe("image.jpg", "{question}")
answer.text, answer.answer, answer.depth, answer.boxes, answer.problems
```

```sh
perceptok llava infer {name} image.jpg -q "{question}"{base_option}
```

{advice}

Trained and saved with [perceptok]({url}); perception tokens are those of AURORA (arXiv 2412.03548).
"""
_URL = "https://pypi.org/project/perceptok"


def make_card(
    kind: Literal["adapter", "merged"],
    name: str,
    base: str,
    vocab: PerceptionVocabulary,
    rule: FrameRule,
    *,
    base_id: str | None,
    system: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Write the text of a model card, with the metadata that the Hub reads.

    Args:
        kind: An adapter that `save_adapter` writes, or a checkpoint that `merge_adapter` writes.
        name: The folder's name.
        base: Where the base was.
        vocab: The tokens, with the codec's fingerprint.
        rule: The frame of images.
        base_id: The base's id on the Hub, if it has one; a local path is not written into metadata.
        system: The system text that the model was trained with.
        config: The training configuration, as JSON types.

    Returns:
        Markdown that begins with YAML between lines of `---`.
    """
    from huggingface_hub import ModelCardData

    is_adapter = kind == "adapter"
    sets = {DEPTH: "depth maps (100 tokens of 128)", PIXEL: "bounding boxes (4 tokens of 336)"}
    known = [sets[token_set] for token_set in vocab.token_sets if token_set in sets]
    facts = {
        "base": f"`{base_id}`" if base_id else f"`{Path(base).name}`, a folder of the author",
        "perception tokens": f"{len(vocab.tokens)}: {', '.join(known)}",
        "depth codec": f"fingerprint `{vocab.codec_fingerprint}`" if vocab.codec_fingerprint else "none recorded",
        "frame of images": f"{rule.mode}, {rule.size}x{rule.size} pixels, {rule.interpolation} interpolation",
        "system text": "none" if not system else " ".join(system.split()).replace("|", "\\|"),
    }
    for setting in ("learning_rate", "num_train_epochs", "max_steps", "effective_batch_size", "seed"):
        if (config or {}).get(setting) is not None:
            facts[f"training: {setting}"] = str((config or {})[setting])
    needs_base = is_adapter and base_id is None
    text = _TEXT.format(
        title=name,
        name=name,
        url=_URL,
        question="Which point is closest to the camera?",
        description=(
            "A LoRA adapter with the rows of its perception tokens, for a multimodal language model that writes depth "
            "maps and bounding boxes as tokens and answers from them."
            if is_adapter
            else "A multimodal language model that writes depth maps and bounding boxes as tokens and answers from "
            "them; it loads in transformers without perceptok."
        ),
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        base_argument=', base="FOLDER_OF_THE_BASE"' if needs_base else "",
        base_option=" --base FOLDER_OF_THE_BASE" if needs_base else "",
        advice=(
            "The folder holds peft's two files, the processor with its tokenizer, the tokens' ids "
            "(`perception_tokens.json`), the codec (`codec/`) and the record of base, frame and training "
            "(`perception_adapter.json`). `perceptok llava merge` writes one plain checkpoint."
            if is_adapter
            else "Images are given to its processor as `perceptok.images.open_image` opens them and `FrameRule.apply` "
            "frames them, as in training; depth blocks are decoded by the codec in `codec/`."
        ),
    )
    relation: dict[str, Any] = {"base_model_relation": "adapter" if is_adapter else "finetune"} if base_id else {}
    data = ModelCardData(
        base_model=base_id,
        library_name="perceptok" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["perception-tokens", "depth", "bounding-boxes", "perceptok", *(["peft", "lora"] if is_adapter else [])],
        **relation,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
