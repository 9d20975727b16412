import io
import json
import tarfile
from pathlib import Path

import pytest

from petune.backbone.pinned import Artefact
from petune.data import reviews
from petune.data.reading import read_rows
from petune.errors import ArtifactError, DataError


@pytest.fixture(autouse=True)
def made_up_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a table of 60 lines, a third of them without a clear opinion, stand in for the fetched one."""
    ratings = ["2.5", "-2.5", "0.5"]
    table = "".join(f"{i}\t{ratings[i % 3]}\tcafé {i} \r\n" for i in range(60)).encode("latin-1")
    archive = tmp_path / "reviews.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        info = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        info.size = len(table)
        files.addfile(info, io.BytesIO(table))

    def fetch(artefact: Artefact) -> Path:
        assert artefact is reviews.REVIEWS
        return archive

    monkeypatch.setattr(reviews, "fetch", fetch)
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path / "home"))


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_reviews_have_the_label_of_their_rating_and_are_not_shared() -> None:
    files = reviews.movie_reviews(30, 10)
    train, test = read(files.train), read(files.test)
    assert (len(train), len(test)) == (30, 10)
    assert {row["text"] for row in train}.isdisjoint(row["text"] for row in test)
    for row in train + test:
        name, number = row["text"].split(" ")
        assert name == "café"
        assert row["label"] == ["positive", "negative"][int(number) % 3]


def test_the_rows_are_always_the_same() -> None:
    large, small = reviews.movie_reviews(30, 10), reviews.movie_reviews(20, 5)
    assert read(small.train) == read(large.train)[:20]
    assert read(small.test) == read(large.test)[:5]


def test_the_reviews_are_a_source_of_data() -> None:
    files = reviews.movie_reviews(30, 10)
    assert read_rows("demo").rows == read_rows("demo@train").rows == read(files.train)
    test = read_rows("demo@test")
    assert (test.rows, test.columns, test.origin(2)) == (read(files.test), ("text", "label"), "demo[test]:3")
    assert len(read_rows("demo#4").rows) == 4


def test_a_folder_called_demo_is_asked_for_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(read_rows("demo").rows) == 30
    with pytest.raises(DataError, match=r"\./demo is a folder, and one file is needed"):
        read_rows("./demo")


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match=r"there are 30 train reviews, 31 were asked for; ask for fewer"):
        reviews.movie_reviews(31, 10)
    with pytest.raises(DataError, match=r"there are 10 test reviews, 11 were asked for; ask for fewer"):
        reviews.movie_reviews(30, 11)


def test_an_archive_without_the_table_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    monkeypatch.setattr(reviews, "fetch", lambda artefact: archive)
    with pytest.raises(ArtifactError, match=r"other.tar.gz lacks hutto_ICWSM_2014/.*; remove it and run again"):
        reviews.movie_reviews(30, 10)


def test_the_prompt_is_the_template_s() -> None:
    form = reviews.prompt_format()
    assert form["template"].replace("{{ text }}", "A film.") == reviews.prompt_for("A film.")
    assert form["target"] == " {{ label }}"
