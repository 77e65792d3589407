"""file_errors: whatever a library raises on a damaged file, as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from screen.errors import CellError


class UnreadableError(ValueError):
    """A file that is whole and cannot be read as it is: no damage."""


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """Whatever h5py, zarr or anndata raise, as a CellError of one line that says what was read."""
    try:
        yield
    except CellError:
        raise
    except UnreadableError as error:
        raise CellError(f"{what}: {error}") from error
    except MemoryError as error:
        raise CellError(f"{what}: it does not fit in memory ({error}); the file may be damaged") from error
    except Exception as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise CellError(f"{what}: {first_line}; the file may be damaged") from error
