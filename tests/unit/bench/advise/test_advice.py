"""From a profile to an answer, and to a cluster file that holds together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from helpers.advice import profile

from trtdisagg.bench.advise.advice import Advice, Question, advise
from trtdisagg.bench.advise.cluster_file import cluster_text
from trtdisagg.bench.advise.designs import MAX_DESIGNS, designs
from trtdisagg.bench.advise.load import Targets
from trtdisagg.bench.advise.matching import match_rates
from trtdisagg.bench.advise.profile import PROFILE_VERSION, read_profile
from trtdisagg.cli.main import cli
from trtdisagg.config.load import load
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError

FILE = """
name: asked
model: smollm2-135m-instruct
port: 8123
context_servers: {num_instances: 1, cores: [0]}
generation_servers: {num_instances: 1, cores: [1], max_batch_size: 32}
"""
MODEL = "smollm2-135m-instruct"
CLUSTER = ClusterFile(model=MODEL, context_servers=ServerSection(), generation_servers=ServerSection(max_batch_size=32))
LONG_PROMPTS = Question(isl="1800", osl="200", targets=Targets(ttft_ms=300, tpot_ms=9), num_units=4, num_requests=200)
SHORT_PROMPTS = Question(isl="16", osl="100", targets=Targets(ttft_ms=2000, tpot_ms=60), num_units=3, num_requests=200)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE)
    return path


def asked(file: Path, question: Question) -> Advice:
    return advise(file, [], profile(), question, lambda _: None)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Advice]:
    """Simulated once for all tests."""
    path = tmp_path_factory.mktemp("asked") / "cluster.yaml"
    path.write_text(FILE)
    return {"long": asked(path, LONG_PROMPTS), "short": asked(path, SHORT_PROMPTS)}


def test_every_cluster_that_fits() -> None:
    found = designs(profile(), CLUSTER, 4)
    apart = {(d.context.num, d.generation.num) for d in found if d.context}
    assert apart == {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)}
    assert [d.generation.num for d in found if not d.context] == [1, 2, 3, 4]
    assert all(d.num_units <= 4 for d in found)


def test_without_gpus_one_server_may_have_the_cores_of_two() -> None:
    found = designs(profile(has_gpus=False), CLUSTER, 2)
    sizes = [(d.context is not None, d.generation.num, d.generation.num_units) for d in found]
    assert sizes == [(False, 1, 1), (False, 2, 1), (False, 1, 2), (True, 1, 1)]


def test_of_too_many_those_that_leave_nothing_idle() -> None:
    found = [d for d in designs(profile(), CLUSTER, 200) if d.context]
    assert 50 < len(found) <= MAX_DESIGNS
    assert {d.num_units for d in found} == {200}


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="a server needs 1 GPUs or cores, and there are 0"):
        designs(profile(), CLUSTER, 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "model: another\ngeneration_servers: {}",
            "the profile is of smollm2-135m-instruct, the cluster file of another",
        ),
        (f"model: {MODEL}\ncontext_servers: {{tensor_parallel_size: 2}}", "has TP 2 and PP 1: measure those"),
        (f"model: {MODEL}\ngeneration_servers: {{enable_chunked_prefill: false}}", "knows chunks only"),
        (f"model: {MODEL}\ngeneration_servers: {{enable_attention_dp: true}}", "generation_servers.enable_att"),
        ("generation_servers: {urls: ['localhost:9000']}", "one `model:`"),
    ],
)
def test_a_file_that_the_profile_says_nothing_of(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        asked(file, SHORT_PROMPTS)


def test_rate_matching_is_the_formula() -> None:
    design = next(d for d in designs(profile(), CLUSTER, 2) if d.context)
    matched = match_rates(design, LONG_PROMPTS.load(), Targets())
    rate, ratio = matched.generation_rate, matched.generation_rate / matched.context_rate
    assert matched.output_throughput_per_unit == pytest.approx(rate * 200 / (ratio + 1))
    assert matched.context_per_generation == pytest.approx(ratio)
    assert matched.batch_size == 32
    bounded = match_rates(design, LONG_PROMPTS.load(), Targets(tpot_ms=6))
    assert bounded.batch_size < 32


def test_it_pays_where_prompts_would_hold_streams_up(answers: dict[str, Advice]) -> None:
    advice = answers["long"]
    assert advice.verdict.pays
    assert advice.verdict.best.is_disaggregated
    assert advice.verdict.sentence.startswith("Disaggregation pays: ")
    assert "limited by TPOT" in advice.verdict.reasons[0]
    together = next(row for row in advice.rows if not row.is_disaggregated)
    assert advice.rows[0].goodput_per_unit > together.goodput_per_unit


def test_it_does_not_pay_where_there_is_hardly_a_prompt(answers: dict[str, Advice]) -> None:
    advice = answers["short"]
    assert advice.verdict.pays is False
    assert not advice.verdict.best.is_disaggregated
    assert advice.verdict.sentence.startswith("Disaggregation does not pay here: ")
    assert advice.verdict.ratio is not None
    assert advice.verdict.ratio < 1


def test_nothing_keeps_targets_that_are_shorter_than_a_prompt(file: Path) -> None:
    question = msgspec.structs.replace(LONG_PROMPTS, targets=Targets(ttft_ms=5), num_units=2)
    verdict = asked(file, question).verdict
    assert verdict.pays is None
    assert "Nothing that fits keeps TTFT <= 5 ms for 99 % of requests" in verdict.sentence
    assert verdict.best.num_units == 1, "no more than it takes"


def test_no_gpu_is_left_idle_for_a_gain_that_is_noise(file: Path) -> None:
    """Of clusters of 1 to 3 servers, all alike for a GPU, the one that serves most."""
    question = msgspec.structs.replace(SHORT_PROMPTS, num_requests=1000)
    best = asked(file, question).verdict.best
    assert (best.num_generation, best.num_context) == (3, 0)


def test_requests_that_servers_refuse(file: Path) -> None:
    question = msgspec.structs.replace(LONG_PROMPTS, isl="8000")
    with pytest.raises(ConfigError, match="up to 8200 tokens, and smollm2-135m-instruct takes 8192"):
        asked(file, question)


def test_answers_of_one_token_want_no_generation_server(file: Path) -> None:
    question = msgspec.structs.replace(SHORT_PROMPTS, osl="1", num_units=2)
    assert "rate matching wants no generation servers" in " ".join(asked(file, question).verdict.reasons)


def test_at_a_rate_fewer_gpus_that_keep_the_targets_are_better(file: Path) -> None:
    question = msgspec.structs.replace(SHORT_PROMPTS, request_rate=2.0)
    best = asked(file, question).rows[0]
    assert (best.num_units, best.is_kept) == (1, True)
    assert best.request_rate == 2.0


@pytest.mark.parametrize("prompts", ["long", "short"])
def test_the_file_that_is_written_is_a_cluster_file(
    file: Path, tmp_path: Path, answers: dict[str, Advice], prompts: str
) -> None:
    advice = answers[prompts]
    best, written = advice.verdict.best, tmp_path / "best.yaml"
    written.write_text(text := cluster_text(file, ["port=8124"], advice))
    cluster = load(written).cluster
    assert cluster.context_servers
    assert cluster.generation_servers
    assert cluster.context_servers.num_instances == best.num_context
    assert cluster.generation_servers.num_instances == best.num_generation
    assert cluster.generation_servers.max_batch_size == 32
    assert cluster.port == 8124
    if best.num_context != 1:
        assert cluster.context_servers.cores is None, "pins were for one server"
    assert advice.verdict.sentence in text.replace("\n# ", " ")


# --- the command ------------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["advise", *map(str, words)])


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(profile()))
    return path


def test_a_profile_from_elsewhere_is_enough(file: Path, profile_file: Path, tmp_path: Path) -> None:
    told, best = tmp_path / "told.json", tmp_path / "best.yaml"
    lengths = ("--isl", "normal:900,100", "--osl", "50:150", "--gpus", "2", "--requests", "200")
    kept = ("--profile", profile_file, "--json", told, "-o", best)
    done = run(file, *lengths, "--ttft", "400", "--tpot", "12", *kept)
    assert done.exit_code == 0, done.output
    assert "Disaggregation" in done.output
    advice = msgspec.json.decode(told.read_bytes(), type=Advice)
    assert advice.num_units == 2
    assert len(advice.rows) == 3
    assert load(best).cluster.model == "smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--request-rate", "2"), "name --ttft or --tpot"),
        (("--request-rate", "2", "--concurrency", "4"), "two kinds of load"),
        (("--ttft", "100", "--profile-only"), "--profile FILE"),
        (("--ttft", "100", "--model", "m"), "one of them, please"),
        (("--ttft", "100", "-o", "cluster.yaml"), "name another"),
        (("--ttft", "100", "-o", "nowhere/best.yaml"), "there is no directory"),
    ],
)
def test_questions_that_make_no_sense(
    file: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(file.parent)
    done = run(file, "--isl", "100", "--osl", "10", *words)
    assert done.exit_code == 2
    assert complaint in done.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "is no profile"),
        ("nonsense", "is no profile"),
        (f'{{"version": {PROFILE_VERSION + 1}}}', "measure again"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_profile(path)
