import subprocess
import sys
from pathlib import Path

import pytest

from petune.comparison.folder import Folder
from petune.comparison.record import Budget, Comparison, Trial
from petune.errors import ArtifactError, ConfigError, OutputFolderError

TRIAL = Trial(
    id="a-trial", base="b", method="m", settings={}, seed=1, stage="final", budget=Budget(unit="steps", amount=1),
    status="done", metric="loss", higher_is_better=False, command="petune train", scores=[1.0],
)  # fmt: skip
COMPARISON = Comparison(
    recipe={}, command="petune compare", created="now", machine={}, petune_version="0", data={}, trials=[TRIAL]
)


@pytest.fixture
def begun(tmp_path: Path) -> Folder:
    """A folder that holds a comparison with one trial."""
    folder = Folder(tmp_path / "out")
    folder.begin(COMPARISON, "models: [demo]\n")
    folder.save(TRIAL)
    return folder


def test_a_trial_comes_back(begun: Folder) -> None:
    assert begun.trial("a-trial") == TRIAL
    assert begun.trial("another") is None
    assert Folder(begun.path / "none").comparison() is None


def test_the_head_of_a_comparison_has_no_trials(begun: Folder) -> None:
    found = begun.comparison()
    assert found is not None
    assert found.model_copy(update={"trials": [TRIAL]}) == COMPARISON


def test_who_may_write(begun: Folder, tmp_path: Path) -> None:
    begun.check(resume=True, overwrite=False)
    begun.check(resume=False, overwrite=True)
    Folder(tmp_path / "new").check(resume=False, overwrite=False)
    Folder(tmp_path / "new").check(resume=True, overwrite=False)
    with pytest.raises(OutputFolderError, match="holds a comparison already: go on with --resume"):
        begun.check(resume=False, overwrite=False)
    with pytest.raises(ConfigError, match="give one of them"):
        begun.check(resume=True, overwrite=True)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for flags in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(OutputFolderError, match=r"holds something else \(thesis.txt\)"):
            Folder(tmp_path).check(**flags)
    with pytest.raises(OutputFolderError, match="is a file"):
        Folder(tmp_path / "thesis.txt").check(resume=False, overwrite=False)


def test_clearing_leaves_what_is_not_ours(begun: Folder) -> None:
    (begun.path / "notes.txt").write_text("mine")
    begun.clear()
    assert [path.name for path in begun.path.iterdir()] == ["notes.txt"]


def test_two_comparisons_refuse_each_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    running = r"another comparison is running in .* \(process \d+ on"
    with folder.held(), pytest.raises(OutputFolderError, match=running), Folder(tmp_path / "out").held():
        pytest.fail("both hold the folder")
    with folder.held():
        pass


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from petune.comparison.folder import Folder\n"
        "with Folder(Path(sys.argv[1])).held(): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert done.returncode == 9
    with Folder(tmp_path / "out").held():
        pass


def test_damaged_records(begun: Folder) -> None:
    (begun.of("a-trial") / "trial.json").write_text('{"id": ')
    with pytest.raises(ArtifactError, match=r"trial.json is damaged .* remove it and --resume"):
        begun.trial("a-trial")
    (begun.path / "comparison.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"comparison.json is damaged .* begin anew with --overwrite"):
        begun.comparison()
