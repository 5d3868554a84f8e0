"""A random language model that cannot write a malformed block or box, because the grammar constrains it."""

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.decoding import (
    GrammarConfig,
    PerceptionLogitsProcessor,
    TokenStream,
    generate_perception,
    parse_generation,
)

# A tokenizer of a few words, and the perception tokens.
words = ["<unk>", "<s>", "</s>", "the", "map", "box", "near", "far", "(", ",", ")", "."]
bare = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, **special)
tokens = [token for token_set in (pt.tokens.DEPTH, pt.tokens.PIXEL) for token in token_set.tokens]
tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)
model = LlamaForCausalLM(config).eval()
prompt = tokenizer("<s> the", return_tensors="pt")["input_ids"]

# One depth block first, then text with two boxes at most; no block or box begins that 160 tokens cannot complete.
grammar = GrammarConfig(force_block="first", max_blocks=1, max_boxes=2)
processor = PerceptionLogitsProcessor(vocab, grammar, tokenizer=tokenizer)
settings = {"max_new_tokens": 160, "do_sample": True, "pad_token_id": 2, "eos_token_id": 2}

free = model.generate(prompt, **settings)[0, prompt.shape[1] :]
print("without the grammar:", len(parse_generation(free, vocab).problems), "problems")

constrained = model.generate(prompt, logits_processor=[processor.for_prompt(prompt, max_new_tokens=160)], **settings)
answer = parse_generation(tokenizer.decode(constrained[0, prompt.shape[1] :]).replace(" ", ""), vocab)
print("with it:", len(answer.problems), "problems,", len(answer.blocks), "block,", len(answer.boxes), "boxes")
print("boxes:", answer.boxes.tolist())

# The same without a forward pass for tokens that the grammar forces, and rows of the map as they arrive.
fast = model.generate(
    prompt,
    logits_processor=[processor.for_prompt(prompt, max_new_tokens=160)],
    custom_generate=generate_perception,
    **settings,
)
for event in TokenStream(vocab).feed(fast[0, prompt.shape[1] :]):
    if event.kind in ("row", "box"):
        print(event.kind, event.codes.tolist())
