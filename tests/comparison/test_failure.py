import pytest

from petune.comparison.failure import Failure
from petune.errors import Interrupted, OutputFolderError, PetuneError, ResourceError


@pytest.mark.parametrize("error", [OutputFolderError("read-only"), ResourceError("disk full"), Interrupted("stop", 15)])
def test_an_error_arrives_as_it_was(error: PetuneError) -> None:
    there = Failure.model_validate_json(Failure.of(error).model_dump_json()).error()
    assert (type(there), str(there), there.exit_code) == (type(error), str(error), error.exit_code)


def test_a_stop_is_told_from_an_error() -> None:
    assert Failure.of(Interrupted("stop", 15)).stopped_by == "SIGTERM"
    assert Failure.of(Interrupted("stop", 2)).stopped_by == "SIGINT"
    assert Failure.of(ResourceError("disk full")).stopped_by is None
