"""A process of test_trainable: trains new rows under DistributedDataParallel, and prints the changes."""

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from transformers import LlamaConfig, LlamaForCausalLM

from perceptok.tokens import DEPTH
from perceptok.vocabulary import consecutive_vocabulary, trainable_parameters
from perceptok.vocabulary.matrices import find_matrices

if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    result = {}
    for tied in (False, True):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=200, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=tied,
        )  # fmt: skip
        model, vocab = LlamaForCausalLM(config), consecutive_vocabulary(60, (DEPTH,))
        before = [matrix.detach().clone() for matrix in find_matrices(model).distinct]
        optimizer = torch.optim.AdamW(trainable_parameters(model, vocab), lr=1e-2, weight_decay=0.1)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(3):
            ids = torch.randint(200, (2, 12), generator=generator)
            optimizer.zero_grad()
            with wrapped.no_sync():
                wrapped(input_ids=ids, labels=ids).loss.backward()
            wrapped(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        matrices = find_matrices(model).distinct
        moved = [(was != now).any(dim=1) for was, now in zip(before, matrices, strict=True)]
        others = [[torch.empty_like(matrix) for _ in range(2)] for matrix in matrices]
        for mine, gathered in zip(matrices, others, strict=True):
            distributed.all_gather(gathered, mine.detach())
        ours = vocab.is_perception(torch.arange(200))
        result[str(tied)] = {
            "old": sum(int(matrix[~ours].sum()) for matrix in moved),
            "new": int(moved[-1][ours].sum()),
            "equal": all(torch.equal(*gathered) for gathered in others),
        }
    (Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(result))
    del wrapped
    distributed.barrier()  # a group that ends while the other works in it takes the process down
    distributed.destroy_process_group()
