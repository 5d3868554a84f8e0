"""TRL's SFTTrainer teaches a vision language model perception tokens: LoRA, and the rows of the new tokens.

`python trl_sft.py LLAVA [FOLDER]` trains a LLaVA-1.5 (a folder, or a Hub id) on a data set of `perceptok data build`;
without arguments it trains a tiny stand-in on four procedural records, in seconds.
"""

import sys
import tempfile
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import perceptok as pt
from perceptok.images import open_image
from perceptok.llava import FrameRule, save_adapter
from perceptok.vocabulary import peft_settings

CHAT_TEMPLATE = """{% for message in messages %}{{ message['role'].upper() + ': ' }}\
{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}\
{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}\
{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"""


def make_stand_in(folder: Path) -> Path:
    """A random LLaVA of some thousand weights, in the layout of llava-hf/llava-1.5-7b-hf."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes),
        vision_config=transformers.CLIPVisionConfig(image_size=56, patch_size=14, **{**sizes, "num_hidden_layers": 2}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = transformers.LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def make_rows(folder: Path, frame: FrameRule) -> datasets.Dataset:
    """Records as TRL expects them: `messages`, and the images in a column, opened and framed as perceptok does."""
    rows = []
    for record in pt.data.read_records(folder / "records.jsonl", check_supervision=True):
        row = record.to_chat(folder)  # absolute paths: the rows can be used from any directory
        images = [frame.apply(open_image(path)) for path in row["images"]]
        rows.append({"messages": row["messages"], "images": images})
    return datasets.Dataset.from_list(rows)


torch.manual_seed(0)
work = Path(tempfile.mkdtemp())
base = sys.argv[1] if len(sys.argv) > 1 else make_stand_in(work / "stand-in")
if len(sys.argv) > 2:
    data = Path(sys.argv[2])
else:
    data = work / "data"
    world = {"world": {"scenes": 12, "scene_seed": 1}}
    sets = [{"name": "depth", "source": "world", "task": "depth", "regime": "cot", "count": 4, "markers": [2, 3]}]
    pt.data.build_data(pt.data.DataRecipe.from_dict({"sources": world, "sets": sets, "seed": 7}), data)

codec = pt.DepthCodec.from_pretrained()
model, processor, vocab = pt.load_llava(base, codec=codec, init="codebook", dtype=torch.float32)
settings = peft_settings(model, vocab)  # trains the rows of the perception tokens, in embedding and head
trainer = trl.SFTTrainer(
    model=model,
    args=trl.SFTConfig(
        output_dir=str(work / "run"),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=2e-3,
        max_length=None,  # a truncated depth block would teach nonsense
        loss_type="nll",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        gradient_checkpointing=False,
        bf16=False,
        dataloader_pin_memory=False,
    ),
    train_dataset=make_rows(data, FrameRule()),
    processing_class=processor,
    peft_config=peft.LoraConfig(r=8, lora_alpha=16, target_modules=r".*language_model.*(q|k|v|o)_proj", **settings),
)
trainer.train()
losses = [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry]
print("loss:", losses)

# perceptok's own saving keeps the processor, the tokens' ids, the codec and the frame with the adapter, and checks it.
adapter = save_adapter(work / "adapter", trainer.model, processor, vocab, codec, base=base)
image = next(iter(pt.data.read_records(data / "records.jsonl"))).images[0]
answer = pt.PerceptionPipeline.from_pretrained(adapter)(data / image, "Which point is closest?", max_new_tokens=128)
print("adapter:", adapter)
print("answer:", answer.text[:60], "...")
