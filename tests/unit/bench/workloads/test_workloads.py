from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from helpers.trained_tokenizers import trained

from trtdisagg.bench.serve.asked import Asked, Message, Workload
from trtdisagg.bench.serve.load import Endpoint
from trtdisagg.bench.workloads.build import Built, Wanted, build_workload
from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.cli.bench.workload_options import workload_options
from trtdisagg.errors import ConfigError, StartupError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained("llama3").save(str(file))
    return str(file)


def built(endpoint: Endpoint = "completions", seed: int = 0, **wanted: Any) -> Built:
    return build_workload(Wanted(**wanted), endpoint=endpoint, seed=seed)


def openings(workload: Workload, count: int) -> list[Asked]:
    return list(itertools.islice(workload.opening(), count))


# --- made up --------------------------------------------------------------------------------------------------------


def test_the_same_seed_asks_the_same(tokenizer: str) -> None:
    wanted = {"isl": "20:40", "osl": "normal:50,9", "tokenizer": tokenizer}
    first = openings(built(seed=3, **wanted).workload, 20)
    assert openings(built(seed=3, **wanted).workload, 20) == first
    assert openings(built(seed=4, **wanted).workload, 20) != first
    assert len({a.prompt for a in first}) == 20
    assert len({a.max_tokens for a in first}) > 5


def test_a_conversation_does_not_depend_on_how_many_there_are(tokenizer: str) -> None:
    workload = built(isl="30", tokenizer=tokenizer).workload
    assert openings(workload, 3) == openings(workload, 9)[:3]


def test_lengths_are_those_asked_for(tokenizer: str) -> None:
    vocabulary = Vocabulary(trained("llama3"), "")
    for asked in openings(built(isl="20:40", osl="7", tokenizer=tokenizer).workload, 20):
        assert isinstance(asked.prompt, str)
        assert asked.num_input_tokens == vocabulary.count(asked.prompt)
        assert 20 <= vocabulary.count(asked.prompt) <= 40
        assert asked.max_tokens == 7


def test_prefixes_are_shared_in_turn(tokenizer: str) -> None:
    asked = openings(built(isl="16", prefix_len=32, num_prefixes=3, tokenizer=tokenizer).workload, 9)
    starts = [str(a.prompt).split()[:32] for a in asked]
    assert starts[:3] == starts[3:6] == starts[6:]
    assert starts[0] != starts[1] != starts[2] != starts[0]
    assert {a.num_input_tokens for a in asked} == {48}


def test_a_turn_holds_all_that_was_said_before(tokenizer: str) -> None:
    workload = built("chat", isl="8", osl="5:9", turns=3, think_s=0.5, tokenizer=tokenizer).workload
    first = openings(workload, 2)[1]
    second = workload.reply(first, "an answer")
    assert second is not None
    assert isinstance(first.prompt, str)
    assert isinstance(second.prompt, tuple)
    *before, asked = second.prompt
    assert before == [Message("user", first.prompt), Message("assistant", "an answer")]
    assert isinstance(asked, Message)
    assert (asked.role, second.conversation, second.turn, second.think_s) == ("user", 1, 1, 0.5)
    third = workload.reply(second, "another")
    assert third is not None
    assert third.prompt[:3] == second.prompt
    assert third.prompt[3] == Message("assistant", "another")
    assert workload.reply(third, "the last") is None


def test_turns_of_the_same_seed_are_the_same_whatever_order_answers_come_in(tokenizer: str) -> None:
    wanted = {"isl": "8", "turns": 2, "tokenizer": tokenizer}
    one, other = built("chat", **wanted).workload, built("chat", **wanted).workload
    first, second = openings(one, 2)
    replies = [one.reply(first, "a"), one.reply(second, "b")]
    first, second = openings(other, 2)
    assert [other.reply(second, "b"), other.reply(first, "a")] == replies[::-1]


def test_without_the_tokenizer() -> None:
    ids = built(isl="30", prefix_len=10)
    assert "token ids" in ids.warnings[0]
    asked = openings(ids.workload, 2)
    assert [a.num_input_tokens for a in asked] == [40, 40]
    assert asked[0].prompt[:10] == asked[1].prompt[:10]
    words = built("chat", isl="30")
    assert "about as many" in words.warnings[0]
    (said,) = openings(words.workload, 1)
    assert isinstance(said.prompt, str)
    assert (len(said.prompt.split()), said.num_input_tokens) == (30, None)


def test_the_tokenizer_of_the_model_is_taken_where_it_lies_here(tokenizer: str) -> None:
    wanted = Wanted(isl="30")
    model = str(Path(tokenizer).parent)
    here = build_workload(wanted, endpoint="chat", seed=0, model=model)
    assert here.warnings == []
    (asked,) = openings(here.workload, 1)
    assert asked.num_input_tokens == 30
    assert build_workload(wanted, endpoint="chat", seed=0, model="somebody's model").warnings


def test_a_tokenizer_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="There is no tokenizer at"):
        built(tokenizer=str(tmp_path / "nowhere"))


# --- from a file, and what makes no sense ---------------------------------------------------------------------------


def test_a_dataset_is_asked_and_told(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    asked = built(dataset=file, osl="9")
    assert asked.words == f"{file}: 2 conversations (a prompt a line), OSL 9"
    assert asked.warnings == []
    assert [(a.prompt, a.max_tokens) for a in openings(asked.workload, 3)] == [("one", 9), ("two", 9), ("one", 9)]


def test_a_dataset_that_is_too_small_is_asked_again_and_told(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    for num_asked, expected in ((2, []), (3, [f"{file} has 2 conversations of the 3"])):
        made = build_workload(Wanted(dataset=file), endpoint="completions", seed=0, num_asked=num_asked)
        assert [w.partition(" that are asked")[0] for w in made.warnings] == expected


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"dataset": Path("x"), "isl": "3"}, "--isl and --prefix-len"),
        ({"dataset": Path("x"), "prefix_len": 3}, "--isl and --prefix-len"),
        ({"max_input_len": 3}, "--max-input-len leaves out prompts of a --dataset"),
        ({"num_prefixes": 3}, "--num-prefixes needs --prefix-len"),
        ({"think_s": 3.0}, "give --turns"),
        ({"turns": 2}, "give --endpoint chat"),
        ({"isl": "many"}, "'many' is no length"),
    ],
)
def test_what_contradicts_itself(wanted: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        built(**wanted)


def test_the_options_of_a_command_are_what_is_wanted(tmp_path: Path) -> None:
    seen = []

    @click.command()
    @workload_options
    @click.option("--other", default=1)
    def command(*, wanted: Wanted, other: int) -> None:
        seen.append((wanted, other))

    (tmp_path / "d").write_text("x")
    words = ["--isl=1:2", "--osl=3", "--prefix-len=4", "--num-prefixes=5", "--turns=6", "--think-time=0.7", "--other=2"]
    for args in (words, ["--dataset", str(tmp_path / "d"), "--max-input-len=8", "--tokenizer=t"], []):
        done = CliRunner().invoke(command, args)
        assert done.exit_code == 0, done.output
    assert seen == [
        (Wanted(isl="1:2", osl="3", prefix_len=4, num_prefixes=5, turns=6, think_s=0.7), 2),
        (Wanted(dataset=tmp_path / "d", max_input_len=8, tokenizer="t"), 1),
        (Wanted(), 1),
    ]
