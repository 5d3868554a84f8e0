"""A language model learns to write a depth map from soft codes of the codec (Eqs. 1 and 2), as small as can be."""

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.losses import auxiliary_log_probs, distillation_loss, next_token_targets, reconstruction_loss
from perceptok.vocabulary import AlignmentAccumulator, VocabularyAlignment, align_vocabularies

torch.manual_seed(0)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<s>": 0})))
tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in pt.tokens.DEPTH.tokens])
vocab = pt.PerceptionVocabulary.from_tokenizer(tokenizer)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=192, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
)

# The teacher: a slope with a box in front of it, as soft codes. Any map M may stand between codes and tokens.
codec = pt.DepthCodec.from_pretrained()
nearness = torch.linspace(0, 0.8, 320)[:, None].repeat(1, 320)
nearness[120:250, 180:280] = 1.0
teacher = codec.encode_soft(nearness, temperature=0.5)
alignment = VocabularyAlignment(tuple(np.random.default_rng(0).permutation(128).tolist()), 128)

# The text: <DEPTH_START>, the tokens of the hard codes, <DEPTH_END>.
block = alignment.token_ids(vocab)[codec.encode(nearness).flatten()]
ids = torch.cat(
    [torch.tensor([0, vocab.start_id(pt.tokens.DEPTH)]), block, torch.tensor([vocab.end_id(pt.tokens.DEPTH)])]
)[None]
targets = next_token_targets(ids, vocab, alignment=alignment)

optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(41):
    logits = model(input_ids=ids).logits
    distillation = distillation_loss(logits, teacher, alignment, vocab, targets.mask)
    reconstruction = reconstruction_loss(logits, nearness[None], codec.decode_soft, alignment, vocab, targets.mask)
    loss = distillation + 10 * reconstruction  # AURORA's own weight of the second is 0
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

# What the model says now, and which map M it has learned, by its own probabilities.
log_probs = auxiliary_log_probs(logits.detach(), vocab, targets.mask)
said = alignment.to_specialist(log_probs.argmax(-1)).view(1, 10, 10)
rmse = (codec.decode(said) - nearness).square().mean().sqrt()
gathered = AlignmentAccumulator(128)
gathered.update(teacher.view(-1, 128), log_probs)
found = align_vocabularies(gathered.cost)
seen = targets.codes[targets.mask].unique().tolist()
right = sum(found.targets[code] == alignment.targets[code] for code in seen)
print(f"RMSE in nearness {rmse:.3f}; M recovered for {right} of the {len(seen)} codes in the map")
