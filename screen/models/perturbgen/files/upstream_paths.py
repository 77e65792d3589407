"""UpstreamPaths: where the relative paths of upstream's YAML lead: from its own folder, else from the current directory.

Upstream starts from a directory that its YAML does not know.
"""

from dataclasses import dataclass, field
from pathlib import Path

from screen.errors import ConfigError, some

NOT_ALWAYS_READ = ("trainer.encoder_path",)
"""A checkpoint that holds an encoder needs no file of it."""


@dataclass
class UpstreamPaths:
    """The paths of one file. `found_here` are the keys whose paths were found in the current directory alone."""

    yaml: Path
    found_here: list[str] = field(default_factory=list)

    def find(self, key: str, value: object) -> str:
        """The absolute path of what is read. Raises ConfigError naming both where two that differ are there, or neither."""
        given = Path(str(value)).expanduser()
        beside, here = (self._folder / given).resolve(), (Path.cwd() / given).resolve()
        is_beside, is_here = beside.exists(), here.exists()
        if beside == here or (is_beside and not is_here) or (is_beside and beside.samefile(here)):
            return str(beside)
        if is_beside:
            raise ConfigError(
                f"{key} in {self.yaml.name} is {value}, which may be {beside} or {here}: both are there; write the absolute path"
            )
        if is_here:
            self.found_here.append(key)
            return str(here)
        if key in NOT_ALWAYS_READ:
            return str(beside)
        raise ConfigError(f"{key} in {self.yaml.name} is {value}: there is neither {beside} nor {here}")

    def output(self, value: object) -> str:
        """The absolute path of what is written: where the files that are read were found."""
        folder = Path.cwd() if self.found_here else self._folder
        return str((folder / Path(str(value)).expanduser()).resolve())

    @property
    def notes(self) -> list[str]:
        """What was not found beside the YAML file."""
        if not self.found_here:
            return []
        return [
            f"relative paths start at the current directory, not beside {self.yaml.name}: {some(self.found_here, 9)}"
        ]

    @property
    def _folder(self) -> Path:
        return self.yaml.resolve().parent
