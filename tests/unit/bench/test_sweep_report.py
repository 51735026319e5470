"""From the folders of sweeps to what the report says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.serve_reports import serve_report
from helpers.sweeps import filled, sweep_of

from trtdisagg.bench.sweep import over_load, pictures, trade_off
from trtdisagg.bench.sweep.folder import Folder, write
from trtdisagg.bench.sweep.labels import place
from trtdisagg.bench.sweep.page import best, page, rows
from trtdisagg.bench.sweep.results import Results, gather
from trtdisagg.errors import ConfigError, StartupError

GOALS = {"ttft": 500.0, "tpot": 30.0}


def figures(user: float, total: float, **more: Any) -> dict[str, Any]:
    return {"interactivity": user, "output_throughput": total, "num_gpus": 2, **more}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return gather(
        [
            filled(
                tmp_path / "s",
                sweep_of("a", "b", goodput=GOALS),
                {
                    ("a", "c001"): figures(50, 100, request_goodput=1.0, ttft=20.0),
                    ("a", "c008"): figures(20, 400, request_goodput=3.0, ttft=90.0, tpot=50.0, p99_tpot_ms=70.0),
                    ("b", "c001"): figures(40, 90, request_goodput=0.5, ttft=10.0, failed=2, is_client_bound=True),
                },
            )
        ]
    )


def test_points_are_compared_by_gpu_and_user(results: Results) -> None:
    assert results.unit == "GPU"
    assert [(p.variant, p.label, results.per_unit(p)) for p in results.front()] == [("a", "8", 200), ("a", "1", 50)]
    assert [(row.variant, row.load, row.is_best) for row in rows(results)] == [
        ("a", "1 at once", True),
        ("a", "8 at once", True),
        ("b", "1 at once", False),
    ]
    assert rows(results)[2].notes == ["2 requests failed", "the load client was the bottleneck"]
    assert [(it.what, it.value, it.variant, it.load) for it in best(results)] == [
        ("most output per GPU", "200.0 tok/s", "a", "8 at once"),
        ("fastest for a user", "50.0 tok/s", "a", "1 at once"),
        ("shortest TTFT, median", "10 ms", "b", "1 at once"),
        ("highest goodput per GPU", "1.50 req/s", "a", "8 at once"),
    ]
    assert results.series[1].failures == [("c008: 8 at once", "not run")]


@pytest.mark.parametrize(
    ("ours", "theirs", "unit"),
    [({"num_cores": 2}, {"num_cores": 4}, "core"), ({"num_gpus": 1}, {"num_cores": 2}, "cluster"), ({}, {}, "cluster")],
)
def test_throughput_is_told_per_what_all_have(tmp_path: Path, ours: Any, theirs: Any, unit: str) -> None:
    folder = filled(tmp_path / "s", sweep_of("a", "b"), {("a", "c001"): ours, ("b", "c001"): theirs})
    assert gather([folder]).unit == unit


def test_of_repetitions_the_median_counts(tmp_path: Path) -> None:
    runs = {
        ("a", cell): {"output_throughput": total, "completed": completed}
        for cell, total, completed in (("c001", 1, 90), ("c001-2", 9, 90), ("c001-3", 2, 8))
    }
    results = gather([filled(tmp_path / "s", sweep_of("a", concurrencies=[1], repetitions=3), runs)])
    (point,) = results.points
    assert point.figure("output_throughput") == 2
    assert rows(results)[0].notes == ["of 8 answers only, so the percentiles say little", "3 runs"]


def test_variants_of_several_sweeps_are_told_apart(tmp_path: Path) -> None:
    one = filled(tmp_path / "one", sweep_of("a", "b"), {("a", "c001"): {}})
    other = filled(tmp_path / "other", sweep_of("a"), {("a", "c001"): {}})
    assert [series.label for series in gather([one, other]).series] == ["one/a", "b", "other/a"]


def test_pictures_say_what_they_show(results: Results) -> None:
    made = trade_off.throughput(results)
    (axes,) = made.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("output tok/s per user", "output tok/s per GPU")
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["a", "b", "Pareto front"]
    assert {"1", "8"} <= {text.get_text() for text in axes.texts}

    times = over_load.latency(results, "concurrency").axes
    assert [axes.get_ylabel() for axes in times] == [
        "time to first token (TTFT), ms",
        "time per output token (TPOT), ms",
    ]
    assert ["target\n500 ms" in [text.get_text() for text in axes.texts] for axes in times] == [True, False]
    assert [text.get_text() for text in times[0].get_xticklabels()] == ["1", "8"]

    assert over_load.goodput(results, "concurrency").axes[0].get_ylabel() == "good requests/s per GPU"
    assert "2 variants" in trade_off.throughput_alt(results)


def test_the_page_stands_alone_and_takes_no_name_for_markup(tmp_path: Path) -> None:
    folder = filled(tmp_path / "s", sweep_of("a"), {("a", "c001"): {"warnings": ["<b>hot</b>"]}})
    (cell,) = folder.missing("a")
    folder.cell(cell).mkdir()
    folder.write_failure(cell, "it <died>")
    picture = pictures.Picture(name="p", alt='x "y"', png=b"", svg=b"<svg/>", dark_svg=b"<svg/>")
    text = page(gather([folder]), [picture])
    assert "&lt;b&gt;hot" in text
    assert "it &lt;died&gt;" in text
    assert "data:image/svg+xml;base64,PHN2Zy8+" in text
    assert "model: m" in text
    assert "https://" not in text


def test_what_was_not_seen_is_not_shown(tmp_path: Path) -> None:
    """Answers that are not streamed have no TTFT and no TPOT: no zeros in the table, no line at the bottom."""
    whole = {"interactivity": None, "ttft": None, "tpot": None, "itl": None, "output_throughput": 7, "e2el": 90.0}
    folder = filled(tmp_path / "s", sweep_of("a"), {("a", "c001"): whole, ("a", "c008"): whole})
    results = gather([folder])
    assert results.front() == []
    assert [(it.what, it.value) for it in best(results)] == [("most output", "7.0 tok/s")]
    assert rows(results)[0].values == ["0.00", "7", "-", "-", "-", "-", "-", "-", "180"]
    assert [picture.name for picture in pictures.draw(results)] == ["latency-concurrency"]
    (axes,) = over_load.latency(results, "concurrency").axes
    assert axes.get_ylabel() == "time of a whole answer (E2EL), ms"


def test_goodput_of_sweeps_with_other_targets_is_not_compared(tmp_path: Path) -> None:
    sweeps = {name: sweep_of(name, goodput={"ttft": ms}) for name, ms in (("a", 500.0), ("b", 200.0))}
    folders = [filled(tmp_path / name, each, {(name, "c001"): {}}) for name, each in sweeps.items()]
    assert gather(folders[:1]).goodput == {"ttft": 500}
    assert gather(folders).goodput == {}


def test_goodput_over_loads_of_which_none_had_targets_is_not_drawn(tmp_path: Path) -> None:
    rates = sweep_of("a", concurrencies=[], request_rates=[2.0], goodput=GOALS)
    with_targets = filled(tmp_path / "a", rates, {("a", "r2"): {"request_goodput": 1.0}})
    without = filled(tmp_path / "b", sweep_of("b"), {("b", "c001"): {}})
    names = [picture.name for picture in pictures.draw(gather([with_targets, without]))]
    assert names == ["throughput", "latency-concurrency", "latency-rate", "goodput-rate"]


def test_nothing_was_measured(tmp_path: Path) -> None:
    folder = filled(tmp_path / "s", sweep_of("a"), {})
    folder.write_failure("a", "no GPU")
    results = gather([folder])
    assert list(pictures.draw(results)) == []
    assert "no GPU" in page(results, [])


def test_labels_cover_neither_points_nor_each_other() -> None:
    points = [(100.0, 100.0), (104.0, 104.0), (112.0, 100.0), (100.0, 90.0)]
    sizes = [(16.0, 9.0)] * 4
    boxes = [
        (x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2)
        for (x, y), (dx, dy), (w, h) in zip(points, place(points, sizes), sizes, strict=True)
    ]
    for i, (left, bottom, right, top) in enumerate(boxes):
        assert not any(left < x < right and bottom < y < top for x, y in points)
        assert not any(left < r and right > s and bottom < t and top > b for s, b, r, t in boxes[i + 1 :])


def test_labels_do_not_cover_what_is_taken() -> None:
    ((_, dy),) = place([(100.0, 100.0)], [(16.0, 9.0)])
    assert dy > 0
    ((_, dy),) = place([(100.0, 100.0)], [(16.0, 9.0)], [(0.0, 101.0, 200.0, 120.0)])
    assert dy < 0


def test_many_points_are_told_apart_all_the_same(tmp_path: Path) -> None:
    """Of many points the front and the ends of lines have labels; ticks that are near each other have one for both."""
    names, loads = [f"variant-{i}" for i in range(10)], [1, 2, 4, 96, 128]
    cells = {(name, f"c{c:03d}"): figures(100 - c / 2, c * (i + 1)) for i, name in enumerate(names) for c in loads}
    results = gather([filled(tmp_path / "s", sweep_of(*names, concurrencies=loads), cells)])
    (axes,) = trade_off.throughput(results).axes
    assert sorted(text.get_text() for text in axes.texts)[:-1] == sorted(["1", "128"] * 10 + ["2", "4", "96"])
    styles = [(line.get_color(), line.get_marker()) for line in axes.lines[1:]]
    assert len({*styles}) == 10
    ticks = over_load.latency(results, "concurrency").axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["1", "2", "4", "96", ""]


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_is_never_begun_twice(tmp_path: Path) -> None:
    filled(tmp_path / "s", sweep_of("a"), {})
    with pytest.raises(ConfigError, match=r"is there already; --resume .*/s goes on"):
        Folder.create(tmp_path / "s", sweep_of("a"), {})
    with pytest.raises(ConfigError, match="is there already; name another"):
        Folder.create(tmp_path, sweep_of("a"), {})


def test_what_has_a_whole_report_is_done(tmp_path: Path) -> None:
    folder = Folder.open(filled(tmp_path / "s", sweep_of("a"), {("a", "c001"): {}}).path)
    (missing,) = folder.missing("a")
    assert missing.folder == "c008"
    folder.cell(missing).mkdir()
    folder.write_failure(missing, "for a reason")
    failure = folder.failure(missing)
    assert failure
    assert failure.reason == "for a reason"
    write(folder.report_file(missing), serve_report())
    folder.write_failure(missing, None)
    assert (folder.missing("a"), folder.failure(missing)) == ([], None)


def test_what_is_no_folder_or_no_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sweep\.json: it is not the folder of a sweep"):
        Folder.open(tmp_path)
    folder = filled(tmp_path / "s", sweep_of("a"), {("a", "c001"): {}})
    (tmp_path / "s" / "a" / "c001" / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"c001/report.json: .*date"):
        gather([folder])


def test_one_sweep_at_a_time_works_on_a_variant(tmp_path: Path) -> None:
    folder = filled(tmp_path / "s", sweep_of("a", "b"), {})
    with (
        folder.held("a"),
        folder.held("b"),
        pytest.raises(StartupError, match="another sweep works on it"),
        folder.held("a"),
    ):
        pass
    with folder.held("a"):
        pass
