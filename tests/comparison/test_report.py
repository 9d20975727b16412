"""The files of the report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from petune.comparison.record import Comparison
from petune.comparison.report import write_report
from petune.errors import OutputFolderError


def test_four_files_are_written(comparison: Comparison, tmp_path: Path) -> None:
    paths = write_report(comparison, tmp_path / "new")
    assert [path.name for path in paths] == ["report.html", "report.md", "report.csv", "report.json"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)
    assert Comparison.model_validate_json(paths[3].read_bytes()) == comparison


def test_the_same_comparison_makes_the_same_files(comparison: Comparison, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(comparison, tmp_path / "first")]
    again = Comparison.model_validate_json((tmp_path / "first" / "report.json").read_bytes())
    assert [path.read_bytes() for path in write_report(again, tmp_path / "second")] == first


def test_a_report_without_trials_is_written(make_comparison_of: Callable[..., Comparison], tmp_path: Path) -> None:
    assert all(path.stat().st_size for path in write_report(make_comparison_of(), tmp_path))


def test_a_folder_that_cannot_be_written_is_named(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFolderError, match=r"cannot write .*report\.html"):
        write_report(comparison, tmp_path / "file")
