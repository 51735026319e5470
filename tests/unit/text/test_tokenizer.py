from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from trtdisagg.errors import ConfigError, RequestError, StartupError
from trtdisagg.protocol.openai import ChatMessage, TextPart
from trtdisagg.text.model_files import ModelFiles, resolve_model
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

USER = ChatMessage(role="user", content="Hi")


def directory_model(path: Path, **kwargs: str | None) -> ModelFiles:
    tiny_tokenizer.write_byte_level(path, **kwargs)
    (path / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    return ModelFiles(name="tiny", path=str(path), format="safetensors", served_name="tiny")


@pytest.fixture(scope="module")
def smollm() -> Tokenizer:
    return load_tokenizer(resolve_model("smollm2-135m-instruct"))


# --- the real model's -----------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_real_chat_prompt(smollm: Tokenizer) -> None:
    message = ChatMessage(role="user", content="What is the capital of France?")
    text = smollm.render_chat([message])
    ids = smollm.encode(text, add_special_tokens=False)
    assert "helpful AI assistant named SmolLM" in text
    assert len(ids) == 37
    assert smollm.decode(ids, skip_special_tokens=False) == text
    assert (smollm.bos_token_id, smollm.eos_token_ids, smollm.vocab_size) == (1, {2}, 49152)


@pytest.mark.real_model
def test_real_tokens_are_those_of_transformers(smollm: Tokenizer) -> None:
    # From the model's own tokenizer.json: digits one by one, no token before the first.
    ids = [504, 3575, 282, 4649, 314, 216, 34, 32, 33, 40, 15107, 232, 227, 216, 18645, 250, 48392, 138]
    assert smollm.encode("The capital of France is 2018 🎉 你好") == ids
    assert smollm.decode(ids) == "The capital of France is 2018 🎉 你好"


# --- a directory ----------------------------------------------------------------------------------------------------


def test_directory(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(directory_model(tmp_path))
    ids = tokenizer.encode("he said: é<|im_end|>")
    assert tokenizer.decode(ids) == "he said: é"
    assert ids[-1] == 2
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.bos_token_id == 1
    assert tokenizer.special_token_ids == {0, 1, 2}


def test_generation_config_says_what_ends_an_answer(tmp_path: Path) -> None:
    files = directory_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert load_tokenizer(files).eos_token_ids == {1, 2, 5}


def test_a_tokenizer_that_cuts_prompts_is_told_not_to(tmp_path: Path) -> None:
    files = directory_model(tmp_path)
    backend = tiny_tokenizer.byte_level()
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(files).encode("x" * 50)) == 50


def test_no_tokenizer_is_an_error_that_says_so(tmp_path: Path) -> None:
    files = directory_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(StartupError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(files)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(StartupError, match=r"has no tokenizer\.json"):
        load_tokenizer(files)


def test_unknown_decoder_is_refused() -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="decoder of kind WordPiece"):
        Tokenizer(backend, name="x", eos_token_ids=frozenset(), special_tokens={}, chat_template=None)


# --- chat -----------------------------------------------------------------------------------------------------------


def test_chat_is_rendered_as_templates_expect(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "{% if m.role == 'assistant' %}{% continue %}{% endif %}\n"
        "{{ m.role }}={{ m.content }};\n{% endfor %}\n{{ {'é': mood} | tojson }}{{ strftime_now('%%') }}"
    )
    tokenizer = load_tokenizer(directory_model(tmp_path, chat_template=template))
    messages = [
        ChatMessage(role="developer", content="Be kind"),
        ChatMessage(role="assistant", content="left out"),
        ChatMessage(role="user", content=[TextPart("a"), TextPart("b")]),
    ]
    assert (
        tokenizer.render_chat(messages, variables={"mood": 1}) == '<|im_start|>system=Be kind;\nuser=a\nb;\n{"é": 1}%'
    )


def test_chat_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    files = directory_model(tmp_path, chat_template=None)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert load_tokenizer(files).render_chat([USER]) == "Hi!"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('only users') }}", "only users"),
        ("{% for %}", "failed"),
        ("{{ messages[3].content }}", "failed"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 + messages[0].content }}", "failed"),
    ],
)
def test_chat_that_cannot_be_rendered_is_the_clients_error(tmp_path: Path, template: str | None, message: str) -> None:
    tokenizer = load_tokenizer(directory_model(tmp_path, chat_template=template))
    with pytest.raises(RequestError, match=message):
        tokenizer.render_chat([USER])


def test_template_variables_of_ours_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="`messages` cannot be set"):
        load_tokenizer(directory_model(tmp_path)).render_chat([USER], variables={"messages": []})
