"""A minimal language model learns to write a depth map from soft codes of the codec (Eqs. 1 and 2)."""

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

# The teacher: a slope with a box in front of it, as soft codes. The map M from codes to tokens is random.
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
    loss = distillation + 10 * reconstruction  # AURORA's weight of the reconstruction is 0
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

# The predicted map, and the map M recovered from the model's probabilities.
log_probs = auxiliary_log_probs(logits.detach(), vocab, targets.mask)
predicted = alignment.to_specialist(log_probs.argmax(-1)).view(1, 10, 10)
rmse = (codec.decode(predicted) - nearness).square().mean().sqrt()
accumulator = AlignmentAccumulator(128)
accumulator.update(teacher.view(-1, 128), log_probs)
recovered = align_vocabularies(accumulator.cost)
codes = targets.codes[targets.mask].unique().tolist()
correct = sum(recovered.targets[code] == alignment.targets[code] for code in codes)
print(f"RMSE in nearness {rmse:.3f}; M recovered for {correct} of the {len(codes)} codes in the map")
