from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.trained_tokenizers import trained

from trtdisagg.bench.serve.asked import Message
from trtdisagg.bench.serve.load import Endpoint
from trtdisagg.bench.workloads.dataset import read_dataset
from trtdisagg.bench.workloads.forms import Entry
from trtdisagg.bench.workloads.lengths import Uniform
from trtdisagg.bench.workloads.recorded import Recorded
from trtdisagg.bench.workloads.scripted import Turn
from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.errors import ConfigError

SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "gpt", "value": "not asked for"},
            {"from": "human", "value": "one"},
            {"from": "gpt", "value": "the quick brown fox"},
            {"from": "human", "value": "two"},
            {"from": "gpt", "value": "the lazy dog"},
        ],
    },
    {"id": "b", "conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "what?"}]},
    {"id": "c", "conversations": [{"from": "system", "value": "be kind"}, {"from": "human", "value": "three"}]},
]
CORE_MODEL = [{"input": "a story", "instruction": "sum it up", "output": "it was a long story of ten words or so"}]


def written(directory: Path, content: Any, name: str = "data") -> Path:
    file = directory / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def json_lines(*items: Any) -> str:
    return "\n".join(json.dumps(i, ensure_ascii=False) for i in items) + "\n"


# --- what is in a file ----------------------------------------------------------------------------------------------


def test_a_prompt_a_line(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, "first\n\n  second one \r\nthird"))
    assert dataset.form == "a prompt a line"
    assert [e.prompt for e in dataset.entries] == ["first", "  second one ", "third"]
    (entry,) = read_dataset(written(tmp_path, "a \u2028 b \x0c c\n")).entries
    assert entry.prompt == "a \u2028 b \x0c c"


def test_lines_that_look_like_json_are_text_in_a_txt(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, "[INST] hello\n{x}\n", "prompts.txt"))
    assert [e.prompt for e in dataset.entries] == ["[INST] hello", "{x}"]


@pytest.mark.parametrize(
    ("item", "entry"),
    [
        ({"prompt": "a\u2028b", "output_len": 7}, Entry(prompt="a\u2028b", num_output_tokens=7)),
        ({"task_id": 0, "prompt": [5, 6], "output_tokens": 8}, Entry(prompt=(5, 6), num_output_tokens=8)),
        ({"input_ids": [5, 6]}, Entry(prompt=(5, 6))),
        ({"text_input": "a", "max_tokens": 9}, Entry(prompt="a", num_output_tokens=9)),
        ({"text": "a", "output_length": None}, Entry(prompt="a")),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            Entry(prompt=(Message("user", "ab"),)),
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            Entry(prompt=(Message("user", "a"),), answer="b"),
        ),
    ],
)
def test_json_lines_and_lists(tmp_path: Path, item: dict[str, Any], entry: Entry) -> None:
    lines = read_dataset(written(tmp_path, "\ufeff" + json_lines(item, item)))
    assert (lines.form, lines.entries) == ("JSON lines", [entry, entry])
    listed = read_dataset(written(tmp_path, [item]))
    assert (listed.form, listed.entries) == ("JSON", [entry])


def test_sharegpt(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, SHAREGPT))
    assert (dataset.form, dataset.num_skipped) == ("ShareGPT", 1)
    assert dataset.entries == [
        Entry(prompt="one", answer="the quick brown fox", later=(("two", "the lazy dog"),)),
        Entry(prompt="three", system="be kind"),
    ]


def test_benchmark_core_model(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, CORE_MODEL))
    assert dataset.form == "benchmark_core_model"
    assert dataset.entries == [Entry(prompt="a story sum it up", answer=CORE_MODEL[0]["output"])]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no prompts"),
        ("[]", "has no prompts"),
        ("[INST] hello\n", r"data: no JSON .* ends in .txt"),
        ('{"prompt": "a"}\n{"prompt": "b"\n', "line 2: no JSON"),
        ('{"prompt": "a"}\n\n{"prompt": ""}\n', "line 3: prompt is to be text, not nothing"),
        ('{"prompt": "a"}\n{"question": "b"}\n', "line 2: exactly one of prompt, .* is wanted; there is none"),
        ('{"prompt": "a", "text": "b"}', "line 1: exactly one of .*; there is prompt and text"),
        ('{"prompt": "a"}\n7\n', "line 2: an object with prompt, .* is wanted, not 7"),
        ('{"prompt": [1, -1]}', "prompt is to be text, not a list"),
        ('{"input_ids": "a"}', "input_ids is to be token ids, not text"),
        ('{"prompt": "a", "output_len": 0}', "output_len is to be a number of tokens, at least 1, not 0"),
        ('{"prompt": "a", "output_len": 1, "max_tokens": 1}', "output_len and max_tokens say the same"),
        ('{"messages": []}', "messages is to be a list of messages, not nothing"),
        ('{"messages": [{"role": "user"}]}', "a message has a role and a content"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "a part that is no text"),
        ('[{"conversations": [{"from": "human"}]}]', "item 1: of what is said, `from` and `value` are wanted"),
        ('[{"conversations": []}, {"id": 1}]', "item 2: an object with conversations"),
        ('[{"input": "", "instruction": "", "output": 3}]', "item 1: .* input, instruction and output .*, all of them"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_dataset(written(tmp_path, content))


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"good\nbad \xff\n")
    with pytest.raises(ConfigError, match=r"line 2: no UTF-8 \(byte 9 of the file\)"):
        read_dataset(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_dataset(tmp_path / "nowhere")


# --- what is asked of it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(trained("gpt2"), "gpt2")


def recorded(tmp_path: Path, content: Any, endpoint: Endpoint = "completions", **options: Any) -> list[list[Turn]]:
    dataset = read_dataset(written(tmp_path, content))
    return list(Recorded(dataset=dataset, endpoint=endpoint, **options).once())


def test_lengths_of_answers_are_as_recorded(tmp_path: Path, vocabulary: Vocabulary) -> None:
    (counted,) = recorded(tmp_path, CORE_MODEL, vocabulary=vocabulary)[0]
    assert counted.max_tokens == vocabulary.count(CORE_MODEL[0]["output"])
    assert counted.num_input_tokens == vocabulary.count("a story sum it up")
    (guessed,) = recorded(tmp_path, CORE_MODEL)[0]
    assert (guessed.max_tokens, guessed.num_input_tokens) == (int(10 * 1.3), None)


def test_lengths_of_answers_that_are_given(tmp_path: Path) -> None:
    content = json_lines({"prompt": "a", "output_len": 7}, {"prompt": "b"})
    assert [t.max_tokens for (t,) in recorded(tmp_path, content)] == [7, 128]
    assert [t.max_tokens for (t,) in recorded(tmp_path, content, osl=Uniform(3, 3))] == [3, 3]


def test_turns_of_a_conversation(tmp_path: Path) -> None:
    scripts = recorded(tmp_path, SHAREGPT, "chat", num_turns=5)
    assert [[t.prompt for t in s] for s in scripts] == [
        ["one", "two"],
        [(Message("system", "be kind"), Message("user", "three"))],
    ]
    assert [[t.max_tokens for t in s] for s in scripts] == [[5, 3], [128]]
    first_turns = recorded(tmp_path, SHAREGPT)
    assert [[t.prompt for t in s] for s in first_turns] == [["one"], ["be kind\n\nthree"]]


def test_long_prompts_are_left_out(tmp_path: Path, vocabulary: Vocabulary) -> None:
    content = "the quick brown fox\nthe\n"
    limit = vocabulary.count("the")
    scripts = recorded(tmp_path, content, vocabulary=vocabulary, max_input_len=limit)
    assert [t.prompt for (t,) in scripts] == ["the"]
    dataset = read_dataset(written(tmp_path, "the quick brown fox"))
    too_long = Recorded(dataset=dataset, endpoint="completions", vocabulary=vocabulary, max_input_len=limit)
    with pytest.raises(ConfigError, match=r"All prompts of .* have more than"):
        next(too_long.scripts())
    with pytest.raises(ConfigError, match="give --tokenizer"):
        recorded(tmp_path, content, max_input_len=limit)


def test_what_an_endpoint_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has token ids: they are for --endpoint completions"):
        recorded(tmp_path, '{"prompt": [1, 2]}', "chat")
    with pytest.raises(ConfigError, match="has chats: they are for --endpoint chat"):
        recorded(tmp_path, '{"messages": [{"role": "user", "content": "a"}]}')


def test_a_file_that_is_at_its_end_begins_again(tmp_path: Path) -> None:
    dataset = read_dataset(written(tmp_path, "a\nb\n"))
    scripts = Recorded(dataset=dataset, endpoint="completions").scripts()
    assert [next(scripts)[0].prompt for _ in range(5)] == ["a", "b", "a", "b", "a"]
