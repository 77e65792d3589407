"""Relative paths of upstream's YAML lead from its folder, else from the current directory; two that differ are an error."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from screen.cli.main import main
from screen.errors import ConfigError
from screen.running.configuration import load_config
from tests.support.upstream_files import Recipe, Upstream, write_upstream


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """Upstream's files in a project whose YAML lies in `conf`; the current directory is the project."""
    monkeypatch.chdir(tmp_path)
    made = write_upstream(tmp_path / "project", Recipe())
    monkeypatch.chdir(made.folder)
    (made.folder / "conf").mkdir()
    made.write_yaml(made.request(), "conf/perturbation.yaml")
    return made


YAML = Path("conf/perturbation.yaml")


def test_what_is_not_beside_the_file_is_looked_for_here_and_that_is_said(project: Upstream) -> None:
    config = load_config(YAML)
    assert config.model.checkpoint == project.folder / "count.ckpt"
    assert config.cells.tgt_dataset_folder == project.folder / "targets"
    note = next(n for n in config.notes if "current directory" in n)
    assert "not beside perturbation.yaml" in note and "model.ckpt_masking_path" in note


def test_what_is_written_goes_where_what_is_read_was_found(project: Upstream) -> None:
    raw = project.request()
    raw["trainer"]["output_dir"] = "results"
    project.write_yaml(raw, "conf/perturbation.yaml")
    assert load_config(YAML).output.directory == project.folder / "results"
    project.write_yaml(raw)
    shutil.rmtree("conf")
    assert load_config("perturbation.yaml").output.directory == project.folder / "results"


def test_beside_the_file_comes_first_and_needs_no_note(project: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_yaml(project.request())
    monkeypatch.chdir(project.folder.parent)
    config = load_config("project/perturbation.yaml")
    assert config.model.checkpoint == project.folder / "count.ckpt"
    assert not [n for n in config.notes if "current directory" in n]


def test_two_that_differ_are_an_error_that_names_both(project: Upstream) -> None:
    shutil.copy("count.ckpt", "conf/count.ckpt")
    with pytest.raises(ConfigError, match=r"model.ckpt_masking_path") as told:
        load_config(YAML)
    assert f"may be {project.folder}/conf/count.ckpt or {project.folder}/count.ckpt: both are there" in str(told.value)
    Path("conf/count.ckpt").unlink()
    Path("conf/count.ckpt").symlink_to(project.folder / "count.ckpt")
    assert load_config(YAML).model.checkpoint.resolve() == project.folder / "count.ckpt"


def test_what_is_nowhere_names_both_places(project: Upstream) -> None:
    shutil.rmtree("targets")
    with pytest.raises(ConfigError, match=r"data.tgt_dataset_folder") as told:
        load_config(YAML)
    assert f"there is neither {project.folder}/conf/targets nor {project.folder}/targets" in str(told.value)


@pytest.mark.parametrize("call", [["--config", str(YAML)], [f"--config={YAML}"], [str(YAML)]])
def test_the_file_may_be_named_as_for_val_py(call: list[str], project: Upstream, capsys: Any) -> None:
    assert main(["plan", *call]) == 0
    said = capsys.readouterr()
    assert "1 perturbations" in said.out
    # keys that upstream's file does not have are no advice
    assert not [key for key in ("encoder_num_heads", "see `null`", "deg.top") if key in said.out + said.err]


def test_a_command_without_its_file_is_refused(capsys: Any) -> None:
    for call in (["run", "--config"], ["run", "a.yaml", "--config", "b.yaml"]):
        with pytest.raises(SystemExit) as ended:
            main(call)
        assert ended.value.code == 2
    assert "CONFIG" in capsys.readouterr().err


def test_warnings_of_anndata_about_old_files_are_not_shown(project: Upstream, recwarn: Any) -> None:
    import h5py

    for path in Path("h5ad").glob("*.h5ad"):
        with h5py.File(path, "r+") as handle:
            handle["obs/_index"].attrs.clear()
    assert main(["plan", str(YAML)]) == 0
    assert not [w for w in recwarn if "anndata" in str(w.filename) or "anndata" in str(w.message).lower()]
