"""Where Chromium is looked for, and that it is installed where there is none and somebody may."""

from pathlib import Path

import pytest

from tests.support import chromium

SCRIPT = "#!/bin/sh\n"


def program(folder: Path, name: str, text: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(SCRIPT + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(chromium.VARIABLE, raising=False)
    return folder


def test_the_variable_comes_before_the_path(bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path, named = program(bin_folder, "google-chrome"), program(tmp_path, "mine")
    assert chromium.chromium() == on_path
    monkeypatch.setenv(chromium.VARIABLE, str(named))
    assert chromium.chromium() == named


def test_it_is_installed_where_there_is_none(bin_folder: Path) -> None:
    done = bin_folder.parent / "done"
    made = f'printf "{SCRIPT.strip()}" > {bin_folder}/chromium && /bin/chmod 755 {bin_folder}/chromium'
    program(bin_folder, "sudo", 'shift\n"$@"\n')
    program(bin_folder, "apt-get", f'echo "$@" >> {done}\nif [ "$1" = install ]; then {made}; fi\n')
    assert chromium.main() == 0
    assert done.read_text().splitlines() == ["update", "install -y --no-install-recommends chromium"]


def test_where_nobody_can_install_it_the_message_says_what_to_do(
    bin_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chromium.main() == 1
    assert f"set {chromium.VARIABLE} to its path" in capsys.readouterr().err


def test_a_variable_that_names_nothing_installs_nothing(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bin_folder, "apt-get", "exit 3\n")
    monkeypatch.setenv(chromium.VARIABLE, "/nowhere/chromium")
    assert chromium.main() == 1
    assert capsys.readouterr().out == ""
