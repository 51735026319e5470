from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from helpers.trained_tokenizers import KINDS, trained
from tokenizers import processors

from trtdisagg.bench.workloads.prompts import ExactText, PlainWords, Prompts, TokenIds
from trtdisagg.bench.workloads.vocabulary import Vocabulary, load_vocabulary, local_vocabulary
from trtdisagg.errors import ConfigError, StartupError

SMOLLM2 = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def smollm2() -> Vocabulary:
    return load_vocabulary(SMOLLM2)


# --- lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.real_model
@pytest.mark.parametrize("is_message", [False, True])
def test_text_has_exactly_so_many_tokens(smollm2: Vocabulary, is_message: bool) -> None:
    prompts = ExactText(smollm2, is_message=is_message)
    random = Random(3)
    for num_tokens in [*range(1, 40), 1000, 2048]:
        draft = prompts.draw(random, num_tokens)
        text = prompts.prompt(draft)
        assert smollm2.count(text, is_message=is_message) == draft.num_tokens == num_tokens
        assert text.split(" ") == draft.pieces


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gemma"])  # which has learned two words
def test_each_kind_of_tokenizer(kind: str) -> None:
    vocabulary = Vocabulary(trained(kind), kind)
    prompts = ExactText(vocabulary)
    for num_tokens in (3, 17, 300):
        assert vocabulary.count(prompts.prompt(prompts.draw(Random(1), num_tokens))) == num_tokens


def test_a_token_that_the_tokenizer_puts_first_counts_in_a_prompt_and_not_in_a_message() -> None:
    backend = trained("gpt2")
    backend = type(backend).from_str(backend.to_str())
    backend.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 0)])
    vocabulary = Vocabulary(backend, "with bos")
    text = ExactText(vocabulary)
    assert len(text.draw(Random(1), 20).pieces) == 19
    message = ExactText(vocabulary, is_message=True)
    assert len(message.draw(Random(1), 20).pieces) == 20
    with pytest.raises(ConfigError, match="with bos makes no text that has exactly 1 tokens"):
        text.draw(Random(1), 1)


def test_token_ids_and_plain_words() -> None:
    ids = TokenIds().draw(Random(1), 50)
    assert len(TokenIds().prompt(ids)) == ids.num_tokens == 50
    words = PlainWords().draw(Random(1), 50)
    assert len(PlainWords().prompt(words).split()) == 50
    assert words.num_tokens is None


# --- what prompts have in common ------------------------------------------------------------------------------------


KINDS_OF_PROMPTS: list[Callable[[], Prompts]] = [
    lambda: ExactText(Vocabulary(trained("gpt2"), "gpt2")),
    TokenIds,
    PlainWords,
]


@pytest.mark.parametrize("make", KINDS_OF_PROMPTS)
def test_the_same_seed_draws_the_same(make: Callable[[], Prompts]) -> None:
    assert make().draw(Random("7:1"), 100) == make().draw(Random("7:1"), 100)
    assert make().draw(Random("7:1"), 100) != make().draw(Random("8:1"), 100)


@pytest.mark.real_model
def test_prompts_share_no_beginning_by_accident(smollm2: Vocabulary) -> None:
    prompts = ExactText(smollm2)
    starts = [tuple(prompts.draw(Random(f"1:{i}"), 8).pieces[:4]) for i in range(1000)]
    assert len(set(starts)) == 1000


@pytest.mark.parametrize("make", KINDS_OF_PROMPTS)
def test_a_shared_beginning_is_there_to_the_last_token(make: Callable[[], Prompts]) -> None:
    prompts = make()
    prefix = prompts.draw(Random("prefix"), 40)
    drafts = [prompts.draw(Random(i), 24, prefix) for i in range(5)]
    for draft in drafts:
        assert draft.pieces[: len(prefix.pieces)] == prefix.pieces
        assert draft.num_tokens in (64, None)
    tails = [tuple(d.pieces[len(prefix.pieces) :]) for d in drafts]
    assert all(a[:4] != b[:4] for a, b in itertools.combinations(tails, 2))


# --- where a tokenizer is -------------------------------------------------------------------------------------------


def test_a_file_or_the_directory_that_has_it(tmp_path: Path) -> None:
    trained("llama3").save(str(tmp_path / "tokenizer.json"))
    expected = Vocabulary(trained("llama3"), "").count("the lazy dog")
    assert load_vocabulary(str(tmp_path)).count("the lazy dog") == expected
    assert load_vocabulary(str(tmp_path / "tokenizer.json")).count("the lazy dog") == expected


def test_what_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no directory that has a tokenizer"):
        load_vocabulary(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StartupError, match="cannot be read"):
        load_vocabulary(str(tmp_path))


def test_a_tokenizer_with_too_few_words(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(ConfigError, match="too few words of one token"):
        ExactText(Vocabulary(Tokenizer(models.BPE()), "empty"))


def test_a_model_that_is_elsewhere_has_no_local_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert local_vocabulary("some-org/some-model") is None
    assert local_vocabulary("some model") is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert local_vocabulary(str(tmp_path)) is None
