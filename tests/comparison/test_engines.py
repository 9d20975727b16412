from pathlib import Path

import pytest

from petune.comparison.assignment import Assignments
from petune.comparison.engine import InlineEngine
from petune.comparison.engines import check_engine, make_engine
from petune.comparison.folder import Folder
from petune.comparison.local_engine import LocalEngine
from petune.comparison.recipe import CompareOptions
from petune.comparison.watching import Unwatched
from petune.errors import MissingExtraError


@pytest.mark.parametrize(("name", "kind"), [("inline", InlineEngine), ("local", LocalEngine)])
def test_the_engine_of_a_recipe(name: str, kind: type, tmp_path: Path) -> None:
    options = CompareOptions.model_validate({"data": "rows.jsonl", "engine": name})
    assert type(make_engine(options, Assignments([]), Folder(tmp_path), Unwatched())) is kind


def test_what_it_needs_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.comparison.engines.find_spec", lambda name: None)
    check_engine("local")
    with pytest.raises(MissingExtraError, match=r"pip install 'petune\[ray\]'") as error:
        check_engine("ray")
    assert error.value.exit_code == 4
