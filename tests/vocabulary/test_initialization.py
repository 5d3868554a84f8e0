"""Initial rows, compared with slow and obvious computations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.vocabulary import extend_vocabulary
from perceptok.vocabulary.initialization import (
    ROWS_PER_DRAW,
    codebook_features,
    initialize_rows,
    make_features,
    ordinal_features,
    survey_rows,
)
from perceptok.vocabulary.matrices import find_matrices


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, width: int) -> Tensor:
    """Correlated columns around a mean that is not zero."""
    seeded = generator(3)
    mixing = torch.randn(width, width, generator=seeded) / width**0.5
    return torch.randn(rows, width, generator=seeded) @ mixing + torch.randn(width, generator=seeded)


def cosines(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1)
    return unit @ unit.T


@pytest.mark.parametrize("rows", [700, 3 * ROWS_PER_DRAW + 5])
def test_draws_have_the_covariance_of_the_old_rows(rows: int) -> None:
    old = matrix(rows, 6)
    survey = survey_rows(old, torch.arange(rows), 20_000, generator())
    assert torch.allclose(survey.mean, old.mean(dim=0), atol=1e-5)
    assert survey.norm == pytest.approx(old.norm(dim=1).median().item(), rel=1e-5)
    expected = torch.cov(old.T, correction=0)
    assert torch.allclose(torch.cov(survey.draws.T), expected, atol=0.05 * expected.diagonal().max().item())
    assert survey.draws.mean(dim=0).abs().max() < 0.03
    # Normal: a quarter of each column beyond 1.15 deviations, 5 % beyond 1.96.
    scaled = survey.draws / survey.draws.std(dim=0)
    assert torch.allclose((scaled.abs() > 1.96).float().mean(dim=0), torch.tensor(0.05), atol=0.01)


def test_only_old_rows_enter_the_statistics() -> None:
    old = matrix(500, 8)
    padded = torch.cat([old, torch.full((40, 8), torch.nan)])
    first, second = (survey_rows(some, torch.arange(500), 4, generator()) for some in (old, padded))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, second, strict=True))


def test_half_precision_is_computed_in_float32() -> None:
    old = matrix(4096, 16)
    single = survey_rows(old.bfloat16().float(), torch.arange(4096), 8, generator())
    half = survey_rows(old.bfloat16(), torch.arange(4096), 8, generator())
    assert torch.equal(single.draws, half.draws)
    assert half.draws.dtype == torch.float32


@pytest.mark.parametrize("kind", ["normal", "ordinal", "codebook"])
def test_norms_match_the_old_rows(kind: str) -> None:
    old = matrix(1000, 64)
    book = torch.randn(128, 8, generator=generator())
    features = {
        "normal": torch.eye(50),
        "ordinal": ordinal_features(336),
        "codebook": codebook_features(book, pt.tokens.DEPTH),
    }[kind]
    rows, _ = initialize_rows(old, torch.arange(1000), features, {}, generator())
    assert torch.allclose(rows.norm(dim=1), old.norm(dim=1).median().expand(len(rows)), rtol=1e-4)


def test_ordinal_neighbours_are_similar() -> None:
    features = ordinal_features(336)
    similar = features @ features.T
    falling = similar[0].diff()
    assert (falling < 0).all()
    assert similar[100, 101] == pytest.approx(0.968, abs=0.01)
    assert similar[0, 335] < 0.01
    # And so it is among the rows themselves, drawn from directions enough.
    old = torch.randn(3000, 1024, generator=generator())
    rows, _ = initialize_rows(old, torch.arange(3000), features, {}, generator(1))
    assert torch.allclose(cosines(rows), similar, atol=0.2)
    assert (cosines(rows).diagonal(offset=1) > 0.95).all()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_ordinal_of_other_sizes(size: int) -> None:
    features = ordinal_features(size)
    assert torch.allclose(features.norm(dim=1), torch.ones(size), atol=1e-3)


def test_similar_codes_have_similar_rows() -> None:
    book = torch.randn(128, 32, generator=generator(4))
    book[7] = book[90] + 0.05 * torch.randn(32, generator=generator(5))
    old = torch.randn(3000, 1024, generator=generator())
    rows, _ = initialize_rows(old, torch.arange(3000), codebook_features(book, pt.tokens.DEPTH), {}, generator(1))
    similar = cosines(book.double() - book.double().mean(0)).float()
    assert torch.allclose(cosines(rows), similar, atol=0.2)
    assert cosines(rows)[7, 90] > 0.95


def test_sets_have_independent_draws() -> None:
    features = make_features({pt.tokens.DEPTH: "normal", pt.tokens.PIXEL: "ordinal"}, None)
    assert torch.equal(features, torch.block_diag(torch.eye(130), ordinal_features(336)))  # type: ignore[no-untyped-call]
    beside_mean = make_features({pt.tokens.PIXEL: "mean", pt.tokens.DEPTH: "normal"}, None)
    assert torch.equal(beside_mean, torch.cat([torch.zeros(336, 130), torch.eye(130)]))


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_mean_rows_keep_the_probabilities_of_old_tokens(shift: float) -> None:
    """By Jensen: k new rows at the mean take at most k / (n + k), whatever constant vector the rows share.

    Brought to the old rows' norm the mean would break this bound: that is why it keeps its own.
    """
    old = matrix(400, 32) + shift
    rows, _ = initialize_rows(old, torch.arange(400), torch.zeros(100, 0), {}, generator())
    hidden = 2 * torch.randn(200, 32, generator=generator(6))
    new = torch.softmax(hidden @ torch.cat([old, rows]).T, dim=1)[:, 400:].sum(dim=1)
    assert (new <= 100 / 500 + 1e-4).all()
    scaled = F.normalize(rows, dim=1) * old.norm(dim=1).median() * 1.5
    broken = torch.softmax(hidden @ torch.cat([old, scaled]).T, dim=1)[:, 400:].sum(dim=1)
    assert (broken > 0.3).any()


def test_text_rows_are_averages_of_pieces(tiny: Callable[..., PreTrainedModel], bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    described = {"<DEPTH_0>": "a map"}
    vocab = extend_vocabulary(bare, model, init="text", descriptions=described)
    ids = {word: bare.get_vocab()[word] for word in ("depth", "pixel", "1", "7", "a", "map")}
    for weights in find_matrices(model).distinct:
        old = {word: weights[index].detach() for word, index in ids.items()}
        length = weights[:300].norm(dim=1).median()
        seventeen = (old["pixel"] + (2 * old["1"] + old["7"]) / 3) / 2
        for token_id, expected in (
            (vocab.token_id(pt.tokens.PIXEL, 17), seventeen),
            (vocab.token_id(pt.tokens.DEPTH, 0), (old["a"] + old["map"]) / 2),
        ):
            assert torch.allclose(weights[token_id], F.normalize(expected, dim=0) * length, atol=1e-5)
        assert not torch.allclose(
            weights[vocab.token_id(pt.tokens.PIXEL, 17)], weights[vocab.token_id(pt.tokens.PIXEL, 71)]
        )


@pytest.mark.parametrize(
    ("init", "depth", "pixel"), [("ordinal", "normal", "ordinal"), ("codebook", "codebook", "normal")]
)
def test_an_init_for_all_sets(
    tiny: Callable[..., PreTrainedModel], bare: PreTrainedTokenizerFast, init: str, depth: str, pixel: str
) -> None:
    book = torch.randn(128, 4, generator=generator()) if init == "codebook" else None
    rows = []
    for choice in (init, {pt.tokens.PIXEL: pixel, pt.tokens.DEPTH: depth}):
        model = tiny("llama")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare.backend_tokenizer, unk_token="<unk>")
        extend_vocabulary(tokenizer, model, init=choice, codebook=book)  # type: ignore[arg-type]
        rows.append(find_matrices(model).inputs.detach())
    assert torch.equal(*rows)
