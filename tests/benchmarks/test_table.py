"""Figures are recorded with their circumstances, shown in the docs, and the arithmetic page is what its script prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import record, table
from benchmarks.engine.upstream_shaped import Settings, flops, real_sizes
from benchmarks.kernels import roofline
from tests.support.places import ROOT


def write_page(path: Path, content: str = "") -> Path:
    path.write_text(f"# Title\n\nBefore.\n\n{table.START}\n{content}{table.END}\n\nAfter.\n")
    return path


def write_readme(path: Path) -> Path:
    path.write_text(f"# Title\n\n{table.BRIEF_START}\n{table.BRIEF_END}\n\nAfter.\n")
    return path


def test_a_figure_is_appended_with_its_circumstances(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    record.record("fast", 12.5, "edits/s", 2.5, 5.0, path=path, p20_p80=[12.0, 13.0])
    record.record("alone", 1, "s", None, None, path=path)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line["name"] for line in lines] == ["fast", "alone"]
    assert lines[0]["p20_p80"] == [12.0, 13.0]
    assert {"commit", "machine", "versions", "date"} <= set(lines[0])
    assert {"torch", "numpy", "perturbscreen"} <= set(lines[0]["versions"])
    assert lines[0]["date"].endswith("+00:00")


def test_a_figure_that_is_no_number_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="broken is nan"):
        record.record("broken", float("nan"), "s", None, None, path=path)
    assert not path.exists()


def test_the_latest_line_of_each_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        record.record(name, value, "s", None, None, path=path)
    assert {n: line["value"] for n, line in record.latest(path).items()} == {"b": 3, "a": 2}
    assert list(record.latest(path)) == ["b", "a"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"value": 1}'])
def test_a_broken_line_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"name": "a"}}\n\n{text}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl:3 is no figure"):
        record.latest(path)


def test_a_changed_tree_is_dirty_but_recording_does_not_make_it_so(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "code.py").write_text("1\n")
    assert record.commit(tmp_path) == ""
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    clean = record.commit(tmp_path)
    assert clean
    assert not clean.endswith("-dirty")
    for name in record.WRITTEN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("new\n")
    assert record.commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("2\n")
    assert record.commit(tmp_path) == clean + "-dirty"


def test_without_git_the_commit_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert record.commit() == ""


def test_the_processor_is_named_where_the_system_says_it(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    assert record.cpu_model(path) == ""
    path.write_text("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n")
    assert record.cpu_model(path) == "AMD EPYC (family 26, model 2)"


def test_variants_run_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []

    def variant(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds + len(calls)

    found = record.rounds({"a": lambda: variant("a", 0.0), "b": lambda: variant("b", 0.5)}, 3)
    assert calls == ["a", "b"] * 4
    assert found == {"a": [3.0, 5.0, 7.0], "b": [4.5, 6.5, 8.5]}
    assert record.median(found["a"]) == 5.0
    assert record.p20_p80([0.0, 10.0]) == [2.0, 8.0]
    assert 0 <= record.timed(lambda: None)() < 1


def test_the_recorder_needs_only_torch_numpy_and_the_standard_library() -> None:
    text = (
        "import sys; import benchmarks.record; "
        "sys.exit(', '.join({'screen', 'pandas', 'zarr', 'scipy', 'yaml', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_gets_the_table_and_the_check_tells_whether_it_is_current(tmp_path: Path) -> None:
    page, results = write_page(tmp_path / "performance.md", "stale\n"), tmp_path / "results.jsonl"
    readme = write_readme(tmp_path / "README.md")
    arguments = ["--page", str(page), "--readme", str(readme), "--results", str(results)]
    for name in table.BRIEF:
        record.record(name, 15.46, "edits/s", 0.3026, 51.09, path=results, p20_p80=[14.4, 15.9])
    record.record("reference_demo_all_cores_vs_one", 198.0, "edits/s", 106.4, 1.86, path=results, p20_p80=[190, 204])
    record.record("store_resume_start", 123456.0, "", None, None, path=results)
    assert table.main([*arguments, "--check"]) == 1
    assert "stale" in page.read_text()
    assert table.main(arguments) == 0
    assert table.main([*arguments, "--check"]) == 0
    text = page.read_text()
    assert "stale" not in text
    assert text.startswith("# Title\n\nBefore.\n")
    assert text.endswith("\n\nAfter.\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| what | figure | against | ratio | machine | commit | date |"
    assert len(rows) == 2 + 2 + len(table.BRIEF)
    whole = "| the demo, reference engine, one worker per core | 198 edits/s (190 to 204) | one worker: 106.4 edits/s | 1.86 |"
    assert [r for r in rows if r.startswith(whole)]
    assert [r for r in rows if r.startswith("| what is left of 10,000 units is known after | 123,456 |  |  |")]
    short = [line for line in readme.read_text().splitlines() if line.startswith("|")]
    assert short[0] == "| two CPU cores | figure | against | ratio | commit |"
    assert len(short) == 2 + len(table.BRIEF)
    assert "| 15.46 edits/s | an upstream-shaped loop: 0.3026 edits/s | 51.1 |" in short[2]
    assert table.markdown(["a"], [["odd|name"]]).endswith("| odd\\|name |")
    record.record("store_resume_start", 1.0, "s", None, None, path=results)
    assert table.main([*arguments, "--check"]) == 1


def test_a_readme_is_not_filled_from_results_that_lack_one_of_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, readme = write_page(tmp_path / "performance.md"), write_readme(tmp_path / "README.md")
    before, results = readme.read_text(), tmp_path / "results.jsonl"
    record.record("store_resume_start", 1.0, "s", None, None, path=results)
    assert table.main(["--page", str(page), "--readme", str(readme), "--results", str(results)]) == 2
    assert "lacks the figure 'src_mask_vs_upstream_shaped'" in capsys.readouterr().err
    assert readme.read_text() == before


@pytest.mark.parametrize(
    "text", ["no markers\n", f"{table.START}\n", f"{table.END}\n{table.START}\n", f"{table.START}\n{table.END}\n" * 2]
)
def test_a_page_without_one_pair_of_markers_is_left_alone(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "performance.md", tmp_path / "results.jsonl"
    page.write_text(text)
    record.record("a", 1.0, "s", None, None, path=results)
    readme = write_readme(tmp_path / "README.md")
    assert table.main(["--page", str(page), "--readme", str(readme), "--results", str(results)]) == 2
    assert "markers" in capsys.readouterr().err
    assert page.read_text() == text


def test_the_tables_of_docs_and_readme_are_up_to_date() -> None:
    assert table.main(["--check"]) == 0


def test_every_recorded_figure_that_has_a_description_makes_a_row() -> None:
    figures = record.latest()
    shown = [name for name in figures if name in table.DESCRIPTIONS]
    assert len(shown) > 20
    lines = table.table(figures).splitlines()
    assert sum(line.startswith("|") for line in lines) == len(shown) + 2
    machines = {figures[name]["machine"] for name in shown}
    assert sorted(line[5:] for line in lines if line.startswith("- ")) == sorted(machines)


def test_the_arithmetic_page_is_what_its_script_prints() -> None:
    page = roofline.PAGE.read_text()
    assert roofline.filled(page) == page


@pytest.mark.parametrize("n_times", [1, 2])
def test_both_counts_of_upstreams_shape_agree(n_times: int) -> None:
    sizes = real_sizes(797, n_times)
    part = flops(sizes, 797, Settings(tuple(range(1, n_times + 1))))
    ops = roofline.upstream(sizes, 797, n_times)
    assert sum(op.flops for op in ops) == sum(part.values())
    assert roofline.giga(ops, "encoder", "product") * 1e9 == part["encoder products"]
    assert roofline.giga(ops, kind="attention") * 1e9 == part["encoder attention"] + part["decoder attention"]


def test_our_shapes_leave_out_exactly_what_the_control_already_knows() -> None:
    sizes = real_sizes(797)
    source, target = roofline.exactly(300), roofline.exactly(400)
    start = 2 * 400 * 768 * 5 * 256 + 4 * 400**2 * 256  # the first self-attention, and the queries after it
    encoder = 2 * 300 * 768 * 6 * 768 + 4 * 300**2 * 768
    context_keys = 6 * 2 * 300 * 768 * 2 * 256

    def total(ops: list[roofline.Op]) -> float:
        return sum(op.flops for op in ops)

    control = total(roofline.control(sizes, source, target, 1))
    assert total(roofline.source_edit(sizes, source, target, 1)) == control - start
    both = total(roofline.control(sizes, source, target, 2))
    assert both == 2 * control - encoder - context_keys
    assert total(roofline.source_edit(sizes, source, target, 2)) == both - 2 * start
    assert total(roofline.target_edit(sizes, source, target, 1)) == control - encoder - context_keys
    part = flops(sizes, 300, Settings((1,)))
    alone = (part["encoder products"] + part["encoder attention"]) / 12
    alone += part["decoder products"] + part["decoder attention"] + part["count head"]
    assert 2 * total(roofline.control(sizes, source, source, 1)) == alone


def test_weighing_by_edits_lengthens_rows() -> None:
    cells, edits = (roofline.log_normal(350.0, by_edit) for by_edit in (False, True))
    assert round(cells.mean) == 387
    assert round(edits.mean) == 474
    assert edits.mean == pytest.approx(cells.square / cells.mean)
