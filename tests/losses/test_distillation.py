"""Eq. 1 compared with a slow float64 reference; masks, precision and bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import perceptok as pt
from perceptok.errors import AlignmentError, LossError
from perceptok.losses import auxiliary_log_probs, distillation_loss
from perceptok.losses.distillation import _find_valid_rows
from perceptok.losses.log_probs import Normalization, column_log_probs
from perceptok.tokens import TokenSet
from perceptok.vocabulary import VocabularyAlignment
from tests.operators import RecordedOperators

WIDTH = 520
"""Columns of the logits: padded beyond the 500 tokens."""


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def random_teacher(*shape: int, size: int = 128, seed: int = 1) -> Tensor:
    return torch.softmax(2 * torch.randn(*shape, size, generator=torch.Generator().manual_seed(seed)), -1)


def slow_loss(
    logits: Tensor,
    teacher: Tensor,
    alignment: VocabularyAlignment,
    vocab: pt.PerceptionVocabulary,
    mask: Tensor,
    temperature: float = 1.0,
    normalization: str = "full",
) -> Tensor:
    """Eq. 1 position by position and code by code, in float64."""
    losses = []
    for place in mask.nonzero().tolist():
        scaled = logits[tuple(place)].double() / temperature
        if normalization == "auxiliary":
            scaled = scaled - torch.logsumexp(scaled[vocab.ids(pt.tokens.DEPTH)], 0)
        else:
            scaled = scaled - torch.logsumexp(scaled, 0)
        row = teacher[tuple(place)].double()
        losses.append(
            -sum(
                row[code] * scaled[vocab.token_id(pt.tokens.DEPTH, alignment.targets[code])]
                for code in range(len(alignment))
            )
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("normalization", ["full", "auxiliary"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_a_soft_teacher_equals_the_slow_reference(
    vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment, normalization: str, temperature: float
) -> None:
    logits, teacher = random_logits(2, 7).requires_grad_(), random_teacher(2, 7)
    mask = torch.rand(2, 7, generator=torch.Generator().manual_seed(2)) > 0.4
    loss = distillation_loss(
        logits,
        teacher,
        shuffled,
        vocab,
        mask,
        temperature,
        normalization=normalization,  # type: ignore[arg-type]
    )
    exact = logits.detach().double().requires_grad_()
    expected = slow_loss(exact, teacher, shuffled, vocab, mask, temperature, normalization)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,) = torch.autograd.grad(loss, logits)
    (expected_grad,) = torch.autograd.grad(expected, exact)
    assert (grad - expected_grad).abs().max() < 1e-7
    assert (grad[~mask] == 0).all()


def test_fewer_codes_than_tokens(vocab: pt.PerceptionVocabulary) -> None:
    alignment = VocabularyAlignment((5, 0, 127), 128)
    logits, teacher = random_logits(2, 3), random_teacher(2, 3, size=3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for normalization in ("full", "auxiliary"):
        loss = distillation_loss(logits, teacher, alignment, vocab, mask, normalization=normalization)  # type: ignore[arg-type]
        expected = slow_loss(logits, teacher, alignment, vocab, mask, normalization=normalization)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_hard_teacher_is_cross_entropy(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits = random_logits(3, 5).requires_grad_()
    codes = torch.randint(0, 128, (3, 5), generator=torch.Generator().manual_seed(0))
    loss = distillation_loss(logits, codes, shuffled, vocab)
    expected = F.cross_entropy(logits.flatten(0, 1), shuffled.token_ids(vocab)[codes].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,), (expected_grad,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    assert torch.allclose(grad, expected_grad, atol=1e-8)
    soft = distillation_loss(logits, F.one_hot(codes, 128).float(), shuffled, vocab)
    assert soft.item() == pytest.approx(loss.item(), rel=1e-7)


def test_float64_is_preserved(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits, teacher = random_logits(1, 4).double(), random_teacher(1, 4).double()
    loss = distillation_loss(logits, teacher, shuffled, vocab)
    assert loss.dtype == torch.float64
    expected = slow_loss(logits, teacher, shuffled, vocab, torch.ones(1, 4, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-14)


@pytest.mark.parametrize("normalization", ["full", "auxiliary"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(normalization: str, masked: bool) -> None:
    ids = torch.tensor([3, 0, 6])
    logits = torch.randn(2, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]]) if masked else None

    def found(values: Tensor) -> Tensor:
        return column_log_probs(values, ids, mask, temperature=0.8, normalization=normalization)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(found, (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_no_nan(
    dtype: torch.dtype, vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    logits = random_logits(2, 6, scale=60).to(dtype).requires_grad_()
    teacher = random_teacher(2, 6)
    loss = distillation_loss(logits, teacher, shuffled, vocab)
    expected = slow_loss(logits.detach(), teacher, shuffled, vocab, torch.ones(2, 6, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert torch.isfinite(logits.grad).all()


def test_zero_probabilities_agree_without_loss(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits = random_logits(1, 2)
    codes = torch.tensor([[4, 9]])
    forbidden = shuffled.token_ids(vocab)[torch.tensor([1, 2, 3])]
    logits[..., forbidden] = -torch.inf
    logits[..., 500:] = -torch.inf  # padding
    logits.requires_grad_()
    loss = distillation_loss(logits, F.one_hot(codes, 128).float(), shuffled, vocab)
    assert loss.item() == pytest.approx(distillation_loss(logits, codes, shuffled, vocab).item())
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("normalization", ["full", "auxiliary"])
def test_masked_positions_are_ignored(
    poison: float, normalization: str, vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    clean, teacher = random_logits(2, 5), random_teacher(2, 5)
    mask = torch.tensor([[True, False, True, False, True], [False, True, True, False, False]])
    dirty, dirty_teacher = clean.clone(), teacher.clone()
    dirty[~mask] = poison
    dirty_teacher[~mask] = torch.nan
    dirty.requires_grad_()
    loss = distillation_loss(dirty, dirty_teacher, shuffled, vocab, mask, normalization=normalization)  # type: ignore[arg-type]
    expected = distillation_loss(clean, teacher, shuffled, vocab, mask, normalization=normalization)  # type: ignore[arg-type]
    assert loss.item() == expected.item()
    loss.backward()
    assert dirty.grad is not None
    assert (dirty.grad[~mask] == 0).all()
    assert torch.isfinite(dirty.grad).all()
    codes = torch.full((2, 5), -100)
    codes[mask] = 3
    assert torch.isfinite(distillation_loss(dirty, codes, shuffled, vocab, mask))


@pytest.mark.parametrize("normalization", ["full", "auxiliary"])
def test_no_masked_position_is_zero_with_zero_gradient(
    normalization: str, vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment
) -> None:
    logits = torch.full((2, 3, WIDTH), torch.nan, requires_grad=True)
    loss = distillation_loss(
        logits, torch.full((2, 3), -1), shuffled, vocab, torch.zeros(2, 3, dtype=torch.bool),
        normalization=normalization,  # type: ignore[arg-type]
    )  # fmt: skip
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_teacher_of_the_masked_positions_only(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    """What `encode_soft` returns, (B, 10, 10, 128), for a batch with one block a row."""
    mask = torch.zeros(2, 130, dtype=torch.bool)
    mask[0, 3:103] = mask[1, 20:120] = True
    logits, soft = random_logits(2, 130), random_teacher(2, 10, 10)
    whole = torch.full((2, 130, 128), torch.nan)
    whole[mask] = soft.flatten(0, 2)
    expected = distillation_loss(logits, whole, shuffled, vocab, mask)
    assert distillation_loss(logits, soft, shuffled, vocab, mask).item() == expected.item()
    assert distillation_loss(logits, soft.flatten(0, 2), shuffled, vocab, mask).item() == expected.item()
    codes = soft.argmax(-1)
    assert distillation_loss(logits, codes, shuffled, vocab, mask).item() == pytest.approx(
        distillation_loss(logits, F.one_hot(codes, 128).double(), shuffled, vocab, mask).item()
    )


def test_reductions_and_flat_logits(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits, teacher = random_logits(2, 5), random_teacher(2, 5)
    mask = torch.tensor([[True, False, True, False, True], [False, True, True, False, False]])
    each = distillation_loss(logits, teacher, shuffled, vocab, mask, reduction="none")
    assert each.shape == (5,)
    assert distillation_loss(logits, teacher, shuffled, vocab, mask, reduction="sum").item() == pytest.approx(
        each.sum().item()
    )
    assert distillation_loss(logits, teacher, shuffled, vocab, mask).item() == pytest.approx(each.mean().item())
    flat = distillation_loss(logits.flatten(0, 1), teacher.flatten(0, 1), shuffled, vocab, mask.flatten())
    assert flat.item() == pytest.approx(each.mean().item())


def test_logits_need_not_be_contiguous(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    whole, teacher = random_logits(2, 6).requires_grad_(), random_teacher(2, 5)
    loss = distillation_loss(whole[:, :-1], teacher, shuffled, vocab)
    expected = distillation_loss(whole[:, :-1].contiguous(), teacher, shuffled, vocab)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    (grad,), (expected_grad,) = torch.autograd.grad(loss, whole), torch.autograd.grad(expected, whole)
    assert torch.allclose(grad, expected_grad, atol=1e-9)


def test_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, logits = torch.tensor([1, 5, 499]), random_logits(3, 11).requires_grad_()
    whole = column_log_probs(logits, ids)
    (grad,) = torch.autograd.grad(whole.square().sum(), logits)
    monkeypatch.setattr("perceptok.losses.log_probs._ELEMENTS", 4 * WIDTH)
    parts = column_log_probs(logits, ids)
    assert torch.allclose(parts, whole, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(parts.square().sum(), logits)[0], grad, atol=1e-5)


def test_auxiliary_log_probs_are_columns_of_log_softmax(vocab: pt.PerceptionVocabulary) -> None:
    logits = random_logits(2, 3)
    found = auxiliary_log_probs(logits, vocab)
    expected = torch.log_softmax(logits.double(), -1)[..., vocab.ids(pt.tokens.DEPTH)].flatten(0, 1)
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_bad_input_is_refused(vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment) -> None:
    logits, teacher, codes = random_logits(2, 5), random_teacher(2, 5), torch.zeros(2, 5, dtype=torch.int64)
    mask = torch.ones(2, 5, dtype=torch.bool)
    off = teacher.clone()
    off[1, 2] *= 1.01
    with pytest.raises(LossError, match=r"row 7 of 10 sums to 1\.01 .* not logits"):
        distillation_loss(logits, off, shuffled, vocab)
    negative = teacher.clone()
    negative[0, 0, :2] = torch.tensor([-0.5, 0.5]) + negative[0, 0, :2].sum() / 2
    with pytest.raises(LossError, match=r"row 0 of 10 sums to 1 .* smallest entry of -0"):
        distillation_loss(logits, negative / negative.sum(-1, keepdim=True), shuffled, vocab)
    with pytest.raises(LossError, match="sums to nan"):
        distillation_loss(logits, torch.where(mask[..., None], torch.nan, teacher), shuffled, vocab)
    with pytest.raises(LossError, match=r"0\.\.127 at masked positions; got 0\.\.128"):
        distillation_loss(logits, codes.index_fill(1, torch.tensor([2]), 128), shuffled, vocab)
    with pytest.raises(LossError, match=r"the teacher has 9 rows .* each of the 10 masked"):
        distillation_loss(logits, random_teacher(9), shuffled, vocab, mask)
    with pytest.raises(LossError, match=r"shape \(\.\.\., 128\), one column per code; got \(2, 5, 127\)"):
        distillation_loss(logits, random_teacher(2, 5, size=127), shuffled, vocab)
    with pytest.raises(LossError, match="must not require a gradient"):
        distillation_loss(logits, teacher.clone().requires_grad_(), shuffled, vocab)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(LossError, match="temperature must be positive and finite"):
            distillation_loss(logits, teacher, shuffled, vocab, temperature=temperature)
    with pytest.raises(LossError, match=r"a mask must be bool of shape \(2, 5\); got torch.int64"):
        distillation_loss(logits, teacher, shuffled, vocab, mask.long())
    with pytest.raises(LossError, match="'full' or 'auxiliary'; got 'half'"):
        distillation_loss(logits, teacher, shuffled, vocab, normalization="half")  # type: ignore[arg-type]
    with pytest.raises(LossError, match="'mean', 'sum' or 'none'; got 'max'"):
        distillation_loss(logits, teacher, shuffled, vocab, reduction="max")  # type: ignore[arg-type]
    with pytest.raises(LossError, match=r"400 columns, but there is a token id .* extend the model"):
        distillation_loss(logits[..., :400], teacher, shuffled, vocab)
    with pytest.raises(LossError, match=r"logits must be floating"):
        distillation_loss(logits.long(), teacher, shuffled, vocab)
    with pytest.raises(AlignmentError, match="has 128 auxiliary numbers, PIXEL 336 codes"):
        distillation_loss(logits, teacher, shuffled, vocab, token_set=pt.tokens.PIXEL)
    with pytest.raises(pt.PerceptokError, match="no OTHER tokens"):
        distillation_loss(logits, teacher, shuffled, vocab, token_set=TokenSet("OTHER", 128))


class TestDevices:
    """The meta device has no values: whatever waits for one, as `bool` or `nonzero` do, fails there."""

    @pytest.mark.parametrize("soft", [True, False])
    @pytest.mark.parametrize("normalization", ["full", "auxiliary"])
    def test_nothing_waits_for_the_device(
        self, vocab: pt.PerceptionVocabulary, shuffled: VocabularyAlignment, soft: bool, normalization: Normalization
    ) -> None:
        logits = random_logits(2, 5).to("meta").requires_grad_()
        teacher = random_teacher(2, 5) if soft else torch.zeros(2, 5, dtype=torch.int64)
        loss = distillation_loss(logits, teacher.to("meta"), shuffled, vocab, normalization=normalization)
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert logits.grad.shape == logits.shape
        with pytest.raises(LossError, match=r"0\.\.127"):  # a teacher on the CPU is checked there
            distillation_loss(logits, torch.full((2, 5), 128), shuffled, vocab)

    def test_rows_that_are_not_probabilities_are_found(self) -> None:
        teacher = random_teacher(4)
        teacher[1] *= 1.1
        teacher[2, 0] = torch.nan
        teacher[3, 0] -= 2 * teacher[3, 0] + 0.1
        assert _find_valid_rows(teacher, 128).tolist() == [True, False, False, False]
        assert _find_valid_rows(torch.tensor([0, 127, 128, -1]), 128).tolist() == [True, True, False, False]

    @pytest.mark.parametrize(("dtype", "kernels"), [(torch.float32, 5), (torch.bfloat16, 8)])
    def test_a_chunk_takes_few_kernels(
        self,
        vocab: pt.PerceptionVocabulary,
        shuffled: VocabularyAlignment,
        monkeypatch: pytest.MonkeyPatch,
        dtype: torch.dtype,
        kernels: int,
    ) -> None:
        """Of float32: log_softmax and index_select, and backward softmax, mul_ and index_add_."""
        teacher, counts = random_teacher(2, 5), []
        for rows in (10, 5):  # one chunk and two
            monkeypatch.setattr("perceptok.losses.log_probs._ELEMENTS", rows * WIDTH)
            logits = random_logits(2, 5).to(dtype).requires_grad_()
            with RecordedOperators() as operators:
                distillation_loss(logits, teacher, shuffled, vocab).backward()  # type: ignore[no-untyped-call]
            counts.append(len(operators.kernels))
        assert counts[1] - counts[0] <= kernels
