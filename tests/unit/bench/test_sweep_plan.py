"""From a sweep file to variants and cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.bench.sweep.expand import make_sweep
from trtdisagg.bench.sweep.file import SweepFile
from trtdisagg.bench.sweep.sweep import Sweep, options
from trtdisagg.config.located import read
from trtdisagg.config.strict import convert
from trtdisagg.errors import ConfigError

BASE = "cluster: c.yaml\nconcurrencies: [1, 8]\n"


def sweep(tmp_path: Path, text: str) -> Sweep:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return make_sweep(convert(read(file, "sweep.yaml"), SweepFile))


def test_a_cluster_file_alone_is_one_variant(tmp_path: Path) -> None:
    (variant,) = sweep(tmp_path, BASE).variants
    assert (variant.name, variant.cluster, variant.overrides) == ("base", "c.yaml", [])


def test_variants_differ_by_what_set_takes(tmp_path: Path) -> None:
    text = BASE + "variants:\n- {name: a, set: {model: x, generation_servers.gpus: ['0', '1'], x.y: null}}\n"
    (variant,) = sweep(tmp_path, text).variants
    assert variant.overrides == ['model="x"', 'generation_servers.gpus=["0","1"]', "x.y=null"]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    grid = (
        "grid: {context_servers.num_instances: [1, 2], generation_servers.num_instances: [1], dtype: [float32, auto]}\n"
    )
    found = sweep(tmp_path, BASE + grid).variants
    assert [variant.name for variant in found] == [
        "context.num_instances=1,generation.num_instances=1,dtype=float32",
        "context.num_instances=1,generation.num_instances=1,dtype=auto",
        "context.num_instances=2,generation.num_instances=1,dtype=float32",
        "context.num_instances=2,generation.num_instances=1,dtype=auto",
    ]
    assert found[2].overrides == [
        "context_servers.num_instances=2",
        "generation_servers.num_instances=1",
        'dtype="float32"',
    ]


def test_cells_are_every_load_as_often_as_was_asked(tmp_path: Path) -> None:
    of = sweep(tmp_path, BASE + "request_rates: [2.5]\nrepetitions: 2\n")
    assert [cell.folder for cell in of.cells("base")] == ["c001", "c008", "r2.5", "c001-2", "c008-2", "r2.5-2"]


def test_no_cell_asks_what_another_has_left_in_the_caches(tmp_path: Path) -> None:
    found = sweep(tmp_path, BASE + "request_rates: [1, 2.5]\nrepetitions: 3\n")
    cells = found.cells("one")
    assert len({cell.seed for cell in cells}) == len(cells) == 12
    assert [cell.seed for cell in found.cells("two")] == [cell.seed for cell in cells]
    assert found.words(cells[0])[2:4] == ["--seed", str(cells[0].seed)]
    own = sweep(tmp_path, BASE + "load: {seed: 7}\n")
    assert own.words(cells[0])[-2:] == ["--seed", "7"], "the last one counts"


def test_options_are_words_of_a_command_line() -> None:
    load = {
        "isl": 128,
        "no_stream": True,
        "ignore_eos": False,
        "seed": None,
        "extra_body": {"top_k": 1},
        "turn": [1, 2],
    }
    assert options(load) == ["--isl", "128", "--no-stream", "--extra-body", '{"top_k":1}', "--turn", "1", "--turn", "2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster: c.yaml\n", "no load: name `concurrencies` or `request_rates`"),
        ("concurrencies: [1]\n", "base has neither `cluster` nor `url`"),
        (BASE + "concurency: [1]\n", r"sweep.yaml:3: concurency: unknown key; did you mean concurrencies\?"),
        (BASE + "variants:\n- nam: a\n", r"sweep.yaml:4: variants\[0\].nam: unknown key; did you mean name\?"),
        (BASE + "variants:\n- name: a\n- name: a\n", "two are named a"),
        (BASE + "variants:\n- name: a/b\n", "'a/b': a folder will be called so"),
        (BASE + "variants:\n- name: sweep.json\n", "a folder will be called so"),
        (BASE + "variants:\n- {name: a, url: 'http://x', set: {a: 1}}\n", "`cluster` and `set` are not for it"),
        (BASE + "variants:\n- {name: a, num_gpus: 1}\n", "are for a `url`"),
        (BASE + "grid: {a: []}\n", "grid: a has no values"),
        (BASE + "repetitions: 0\n", "sweep.yaml:3: repetitions: Expected int >= 1"),
        (BASE + "goodput: {tttf: 3}\n", "goodput"),
        ("cluster: c.yaml\nconcurrencies: [4, 4]\n", "4 stands here twice"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep(tmp_path, text)
