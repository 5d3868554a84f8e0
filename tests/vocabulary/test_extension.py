"""Extension of models of many families: rows, ties, sizes, and refused models."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import perceptok as pt
from perceptok.errors import VocabularyError
from perceptok.vocabulary import extend_vocabulary, peft_settings, trainable_parameters
from perceptok.vocabulary.matrices import find_matrices, list_configs

Tiny = Callable[..., PreTrainedModel]

OURS = 130 + 336


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def test_models_of_all_families_are_extended(tiny: Tiny, bare: PreTrainedTokenizerFast, kind: tuple[str, bool]) -> None:
    name, tied = kind
    model = tiny(name, tied=tied)
    ids = torch.tensor([[3, 4, 5, 6]])
    before, old = logits(model, ids), [parameter.detach().clone() for parameter in find_matrices(model).parameters]
    vocab = extend_vocabulary(bare, model, init="normal")
    matrices = find_matrices(model)
    assert matrices.rows == 300 + OURS
    assert matrices.tied == tied
    for matrix, was in zip(matrices.parameters, old, strict=True):
        assert len(matrix) == len(was) + OURS
        assert torch.equal(matrix[:300], was[:300])
    after = logits(model, ids)
    assert torch.equal(after[..., :300], before) or torch.allclose(after[..., :300], before, atol=1e-6)
    assert after.shape[-1] == 300 + OURS
    assert logits(model, vocab.ids(pt.tokens.DEPTH)[None, :20]).isfinite().all()


def test_all_vocabulary_sizes_are_updated(tiny: Tiny, bare: PreTrainedTokenizerFast, kind: tuple[str, bool]) -> None:
    name, tied = kind
    model = tiny(name, tied=tied)
    held = {index for index, config in enumerate(list_configs(model)) if vars(config).get("vocab_size") == 300}
    extend_vocabulary(bare, model, pad_to_multiple_of=64)
    rows = 768
    assert held
    assert {vars(config)["vocab_size"] for index, config in enumerate(list_configs(model)) if index in held} == {rows}
    assert model.config.get_text_config().vocab_size == rows
    matrices = {id(matrix): len(matrix) for matrix in find_matrices(model).distinct}
    for module in model.modules():
        assert vars(module).get("vocab_size", rows) == rows
        length = matrices.get(id(getattr(module, "weight", None)))
        if length is not None:
            assert getattr(module, "num_embeddings", length) == getattr(module, "out_features", length) == length


def test_saved_and_loaded(tiny: Tiny, bare: PreTrainedTokenizerFast, kind: tuple[str, bool], tmp_path: Path) -> None:
    """Model and tokenizer come back with the same logits, write new tokens, and are left alone by another extension."""
    name, tied = kind
    model = tiny(name, tied=tied)
    vocab = extend_vocabulary(bare, model, init="ordinal")
    model.save_pretrained(tmp_path / "model")
    bare.save_pretrained(tmp_path / "tokenizer")
    loaded = type(model).from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert find_matrices(loaded).tied == tied
    ids = torch.tensor([[3, vocab.token_id(pt.tokens.PIXEL, 335), vocab.start_id(pt.tokens.DEPTH)]])
    expected = logits(model, ids)
    assert torch.equal(logits(loaded, ids), expected)
    extend_vocabulary(tokenizer, loaded, init="normal", seed=9)
    assert torch.equal(logits(loaded, ids), expected)
    codes = vocab.ids(pt.tokens.DEPTH).tolist()
    loaded.generation_config.update(eos_token_id=None, forced_eos_token_id=None, pad_token_id=0)
    written = loaded.generate(ids, max_new_tokens=3, do_sample=False, prefix_allowed_tokens_fn=lambda *_: codes)
    assert tokenizer.decode(written[0, -3:], skip_special_tokens=True).startswith("<DEPTH_")
    assert (vocab.codes(written[0, -3:], pt.tokens.DEPTH) >= 0).all()


def test_input_only_tokens_remain(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    """Mllama's image token has a row among the embeddings and none in the head."""
    bare.add_tokens([transformers.AddedToken("<|image|>", special=True)])
    model = tiny("mllama")
    model.config.image_token_index = 300
    before = find_matrices(model).inputs.detach().clone()
    vocab = extend_vocabulary(bare, model, init="normal")
    matrices = find_matrices(model)
    assert vocab.start_id(pt.tokens.DEPTH) == 301
    assert (len(matrices.inputs), len(matrices.outputs)) == (767 + 8, 767)
    assert model.config.get_text_config().vocab_size == 767
    assert torch.equal(matrices.inputs[:301], before[:301])
    assert not torch.isclose(matrices.inputs[301:308], before[301:308]).all(dim=1).any()
    assert torch.allclose(matrices.outputs[300], matrices.outputs[:300].mean(dim=0), atol=1e-6)
    assert torch.allclose(matrices.inputs[767:], before[:301].mean(dim=0), atol=1e-6)


def test_a_table_of_each_layer_changes_nothing(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    """Gemma 3n reads row 0 of it for every id beyond; grown at random it would read something else for old tokens."""
    model = tiny("gemma3n")
    extend_vocabulary(bare, model)
    table = model.model.embed_tokens_per_layer.weight
    assert len(table) == 300 + OURS
    assert torch.equal(table[5:], table[:1].expand(len(table) - 5, -1))


@pytest.mark.parametrize("seeing", [False, True])
def test_an_encoder_decoder_combination(bare: PreTrainedTokenizerFast, seeing: bool, tmp_path: Path) -> None:
    """Donut, TrOCR and the like: transformers does not resize them."""
    small = {"hidden_size": 48, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    written = transformers.BertConfig(vocab_size=300, is_decoder=True, add_cross_attention=True, **small)
    decoder = transformers.BertLMHeadModel(written)
    ids = torch.tensor([[3, 4, 5]])
    if seeing:
        encoder = transformers.ViTModel(transformers.ViTConfig(image_size=28, patch_size=14, **small))
        model = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
        more = {"pixel_values": torch.ones(1, 3, 28, 28)}
    else:
        encoder = transformers.BertModel(transformers.BertConfig(vocab_size=300, **small))
        model = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
        more = {"input_ids": ids}
    before = model(decoder_input_ids=ids, **more).logits
    vocab = extend_vocabulary(bare, model, init="normal")
    assert torch.equal(model(decoder_input_ids=ids, **more).logits[..., :300], before)
    assert model.config.decoder.vocab_size == 766
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    new = vocab.ids(pt.tokens.DEPTH)[None, :5]
    expected = model(decoder_input_ids=new, **more).logits
    assert torch.equal(loaded(decoder_input_ids=new, **more).logits, expected)


def test_rows_of_padding_are_initialized(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", rows=384)
    for matrix in find_matrices(model).distinct:
        matrix.data[300:] = torch.nan
    vocab = extend_vocabulary(bare, model, init="normal")
    assert vocab.token_id(pt.tokens.DEPTH, 0) == 302
    for matrix in find_matrices(model).distinct:
        assert matrix.shape == (300 + OURS, 48)
        assert matrix.isfinite().all()
        assert len(matrix[vocab.all_ids].unique(dim=0)) == OURS


@pytest.mark.parametrize("init", ["mean", "text"])
def test_a_padded_model_is_never_shrunk(tiny: Tiny, bare: PreTrainedTokenizerFast, init: str) -> None:
    model = tiny("llama", rows=1000)
    before = find_matrices(model).inputs.detach().clone()
    vocab = extend_vocabulary(bare, model, init=init)  # type: ignore[arg-type]
    after = find_matrices(model).inputs
    assert after.shape == before.shape
    assert model.config.vocab_size == 1000
    untouched = ~vocab.is_perception(torch.arange(1000))
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.isclose(after[~untouched], before[~untouched]).all(dim=1).any()


def test_rows_without_a_token_are_the_mean(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("gptj")
    extend_vocabulary(bare, model, init="normal", pad_to_multiple_of=500)
    matrices = find_matrices(model)
    assert matrices.rows == 1000
    assert matrices.bias is not None
    for matrix in matrices.parameters:
        assert torch.allclose(matrix[766:], matrix[:300].mean(dim=0), atol=1e-6)
    assert torch.allclose(matrices.bias[300:], matrices.bias[:300].mean())


@pytest.mark.parametrize("init", ["mean", "normal", "ordinal", "text"])
def test_a_second_call_changes_nothing(tiny: Tiny, bare: PreTrainedTokenizerFast, init: str) -> None:
    model, untouched = tiny("llama"), copy.deepcopy(bare)
    first = extend_vocabulary(bare, model, init=init)  # type: ignore[arg-type]
    with torch.no_grad():
        find_matrices(model).outputs[400:] += 1  # trained
    before = [matrix.detach().clone() for matrix in find_matrices(model).distinct]
    for tokenizer in (bare, untouched):
        again = extend_vocabulary(tokenizer, model, init="normal", seed=1)
        assert again.tokens == first.tokens
        assert len(tokenizer) == 300 + OURS
        assert all(torch.equal(a, b) for a, b in zip(find_matrices(model).distinct, before, strict=True))


def test_sets_are_added_one_after_the_other(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    depth = extend_vocabulary(bare, model, (pt.tokens.DEPTH,), init="normal")
    assert depth.token_sets == (pt.tokens.DEPTH,)
    before = find_matrices(model).inputs.detach().clone()
    both = extend_vocabulary(bare, model)
    after = find_matrices(model).inputs
    assert len(after) == 300 + OURS
    assert torch.equal(after[:430], before)
    assert both.tokens == {**depth.tokens, **both.tokens}
    assert list(both.tokens.values()) == list(range(300, 766))
    assert model.config.perception_rows == {"DEPTH": [[300, 130]], "PIXEL": [[430, 336]]}


def test_a_partial_set_is_completed(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    half = [token for token in pt.tokens.DEPTH.tokens if token != pt.tokens.DEPTH.token(7)]
    bare.add_tokens([transformers.AddedToken(token, special=False, normalized=False) for token in half])
    model = tiny("llama", rows=429)
    before = find_matrices(model).inputs.detach().clone()
    vocab = extend_vocabulary(bare, model, (pt.tokens.DEPTH,), init="normal", existing="keep")
    assert vocab.token_id(pt.tokens.DEPTH, 7) == 429
    after = find_matrices(model).inputs
    assert torch.equal(after[:429], before)
    assert after[429].norm() > 0


def test_a_padded_model_is_extended_after_its_tokenizer(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    extend_vocabulary(bare)
    model = tiny("llama", rows=384)
    find_matrices(model).inputs.data[300:] = torch.nan
    extend_vocabulary(bare, model, init="normal")
    assert find_matrices(model).inputs.isfinite().all()


def test_rows_that_may_be_trained_are_kept_with_a_warning(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    extend_vocabulary(bare)
    model = tiny("llama", rows=800)
    before = find_matrices(model).inputs.detach().clone()
    with pytest.warns(UserWarning, match="had 336 of the PIXEL tokens already, and the model has rows"):
        extend_vocabulary(bare, copy.deepcopy(model), (pt.tokens.PIXEL,))
    extend_vocabulary(bare, model, existing="keep")
    assert torch.equal(find_matrices(model).inputs, before)
    extend_vocabulary(bare, model, existing="replace", init="normal")
    assert not torch.equal(find_matrices(model).inputs[300:766], before[300:766])
    assert torch.equal(find_matrices(model).inputs[766:], before[766:])


def trained_elsewhere(tiny: Tiny, name: str, rows: int, tied: bool = False) -> PreTrainedModel:
    """A model whose rows from 300 on are 7, and that has no record of an extension."""
    model = tiny(name, rows=rows, tied=tied)
    for matrix in find_matrices(model).parameters:
        matrix.data[300:] = 7
    return model


@pytest.mark.parametrize("known", ["none", "some", "all", "auroras"])
@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama", True), ("llava", False), ("gptj", False)])
def test_keep_never_overwrites_a_row(
    tiny: Tiny, bare: PreTrainedTokenizerFast, name: str, tied: bool, known: str
) -> None:
    """Whatever the tokenizer has of the tokens: trained rows are no padding."""
    model = trained_elsewhere(tiny, name, 766, tied)
    if known == "auroras":
        bare.add_tokens([*pt.tokens.DEPTH.tokens, *pt.tokens.PIXEL.tokens])
    elif known != "none":
        extend_vocabulary(
            bare, token_sets=(pt.tokens.DEPTH,) if known == "some" else (pt.tokens.DEPTH, pt.tokens.PIXEL)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if known == "auroras" else "error")
        vocab = extend_vocabulary(bare, model, existing="keep", init="normal")
    assert vocab.all_ids.tolist() == list(range(300, 766))
    for matrix in find_matrices(model).parameters:
        assert len(matrix) == 766
        assert (matrix[300:] == 7).all()
    extend_vocabulary(bare, model, init="normal")  # on record now
    assert all((matrix[300:] == 7).all() for matrix in find_matrices(model).parameters)


def test_keep_initializes_only_missing_rows(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    """Trained with the depth tokens alone; the pixel tokens are new."""
    model = trained_elsewhere(tiny, "llama", 430)
    extend_vocabulary(bare, model, existing="keep", init="normal")
    for matrix in find_matrices(model).parameters:
        assert (matrix[300:430] == 7).all()
        assert len(matrix[430:].unique(dim=0)) == 336
        assert not (matrix[430:] == 7).any()


def test_rows_that_may_be_trained_are_overwritten_with_a_warning(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    with pytest.warns(
        UserWarning, match=r"exactly as many rows .* 130 rows of DEPTH are initialized anew. Pass existing='k"
    ):
        extend_vocabulary(bare, trained_elsewhere(tiny, "llama", 430), (pt.tokens.DEPTH,))


def test_the_same_seed_gives_the_same_rows(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    rows = []
    for seed in (0, 0, 1):
        model = tiny("llama")
        extend_vocabulary(copy.deepcopy(bare), model, init="ordinal", seed=seed)
        rows.append(find_matrices(model).outputs.detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_half_precision(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama").to(torch.bfloat16)
    extend_vocabulary(bare, model, init="normal")
    matrices = find_matrices(model)
    assert matrices.inputs.dtype == matrices.outputs.dtype == torch.bfloat16
    assert matrices.inputs.requires_grad
    assert matrices.inputs.isfinite().all()


# ---------------------------------------------------------------------------------------------- what is refused


def refused(match: str, tokenizer: PreTrainedTokenizerFast, model: object, **options: object) -> None:
    """Refused, and nothing changed."""
    length, known = len(tokenizer), tokenizer.get_vocab()
    sizes = (
        {name: len(parameter) for name, parameter in model.named_parameters()}
        if isinstance(model, PreTrainedModel)
        else {}
    )
    with pytest.raises(VocabularyError, match=match):
        extend_vocabulary(tokenizer, model, **options)  # type: ignore[arg-type]
    assert len(tokenizer) == length
    assert tokenizer.get_vocab() == known
    assert all(len(parameter) == sizes[name] for name, parameter in model.named_parameters() if name in sizes)  # type: ignore[attr-defined]


def test_a_model_without_a_head_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    refused("LlamaModel has no output head", bare, tiny("llama").model)


def test_a_model_of_another_library_is_refused(bare: PreTrainedTokenizerFast) -> None:
    refused("expected a transformers model, got Linear", bare, torch.nn.Linear(2, 2))


def test_a_tied_model_with_a_replaced_head_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", tied=True)
    model.lm_head = torch.nn.Linear(48, 300, bias=False)
    with pytest.raises(VocabularyError, match=r"ties lm_head.weight to model.embed_tokens.weight, but they are two"):
        extend_vocabulary(bare, model)
    assert len(bare) == 300
    head = model.lm_head.weight.detach().clone()
    model.config.tie_word_embeddings = False
    extend_vocabulary(bare, model)
    assert torch.equal(model.lm_head.weight[:300], head)


def test_a_tokenizer_longer_than_the_matrix_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    refused(r"10 of its tokens, 'filler270' \(id 290\) first, have no row among 290", bare, tiny("llama", rows=290))


def test_matrices_of_two_lengths_are_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llama")
    model.lm_head = torch.nn.Linear(48, 310, bias=False)
    with pytest.raises(VocabularyError, match="has 300 rows of embeddings and 310 of the head"):
        extend_vocabulary(bare, model)


def test_separate_embeddings_of_encoder_and_decoder_are_refused(bare: PreTrainedTokenizerFast) -> None:
    config = transformers.BartConfig(
        vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config)
    refused("has several embedding matrices, model.encoder.embed_tokens among them", bare, model)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("init", ["mean", "normal"])
def test_rows_with_nan_are_refused(tiny: Tiny, bare: PreTrainedTokenizerFast, init: str, bad: float) -> None:
    model = tiny("llama")
    model.lm_head.weight.data[5, 3] = bad
    refused("among those are NaN or infinite values: the model is damaged", bare, model, init=init)


def test_an_image_token_missing_in_the_tokenizer_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model = tiny("llava")
    model.config.image_token_index = 300
    refused(r"LlavaConfig.image_token_index is 300, which would be the id of <DEPTH_START>", bare, model)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_sharded_model_is_refused(tiny: Tiny, bare: PreTrainedTokenizerFast, alone: DeviceMesh) -> None:
    message = r"sharded by FSDP or tensor parallelism .*extend the vocabulary .*first, then shard the model"
    whole = tiny("llama")
    vocab = extend_vocabulary(copy.deepcopy(bare), whole)
    for model in (tiny("llama"), whole):
        fully_shard(model, mesh=alone)
        refused(message, bare, model)
    for asking in (trainable_parameters, peft_settings):
        with pytest.raises(VocabularyError, match=message):
            asking(whole, vocab)


def test_missing_or_quantized_weights_are_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    refused("on the meta device", bare, tiny("llama").to("meta"))
    sharded = tiny("llama")
    sharded.lm_head.weight.data = torch.empty(0)
    with pytest.raises(VocabularyError, match="empty here"):
        extend_vocabulary(bare, sharded)
    quantized = tiny("llama").requires_grad_(False)
    quantized.lm_head.weight.data = torch.zeros(300, 48, dtype=torch.int8)
    with pytest.raises(VocabularyError, match=r"quantized \(torch.int8\)"):
        extend_vocabulary(bare, quantized)
    assert len(bare) == 300


def test_rows_of_another_tokenizer_are_refused(tiny: Tiny, bare: PreTrainedTokenizerFast) -> None:
    model, other = tiny("llama"), copy.deepcopy(bare)
    extend_vocabulary(bare, model)
    other.add_tokens(["<pad>"])
    refused("DEPTH rows were made for ids from 300 on, the tokenizer's begin at 301", other, model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init": "zeros"}, "init must be one of mean, normal, ordinal, codebook, text; got 'zeros'"),
        ({"init": {pt.tokens.DEPTH: "mean"}}, r"names the sets \['DEPTH'\], token_sets are \['DEPTH', 'PIXEL'\]"),
        ({"init": "codebook"}, "needs the codec's codebook"),
        ({"codebook": torch.zeros(128, 4)}, "no set has init='codebook'"),
        ({"init": "codebook", "codebook": torch.zeros(64, 4)}, r"\(128, D\); got torch.float32 of shape \(64, 4\)"),
        ({"init": "codebook", "codebook": torch.full((128, 4), torch.nan)}, "vector of code 0 is not finite"),
        ({"init": "text", "descriptions": {"<DEPTH_0>": "ünknown"}}, "no piece of the description 'ünknown'"),
        ({"descriptions": {"<DEPTH_0>": "near"}}, "<DEPTH_0> has a description, but no set with init='text'"),
        ({"pad_to_multiple_of": 0}, "positive integer; got 0"),
        ({"existing": "maybe"}, "existing must be 'keep' or 'replace'; got 'maybe'"),
        ({"token_sets": ()}, "one or more different sets"),
        ({"token_sets": (pt.tokens.DEPTH, pt.tokens.DEPTH)}, "one or more different sets"),
        (
            {"token_sets": pt.tokens.DEPTH},
            r"one or more different sets, as \(DEPTH, PIXEL\); got TokenSet\(name='DEPTH'",
        ),
        ({"token_sets": "DEPTH"}, "one or more different sets"),
        ({"init": {"DEPTH": "mean", "PIXEL": "mean"}}, r"names the sets \[\"'DEPTH'\", .* one init for each TokenSet"),
        ({"init": "codebook", "codebook": pt.DepthCodec}, "a tensor, such as codec.codebook; got type"),
    ],
)
def test_invalid_options_are_refused(
    tiny: Tiny, bare: PreTrainedTokenizerFast, options: dict[str, object], match: str
) -> None:
    refused(match, bare, tiny("llama"), **options)
