import datasets
import pytest

from petune.data.hub import HUB_ID, from_splits, read_hub
from petune.data.reading import read_rows
from petune.errors import DataError

NAMES = datasets.ClassLabel(names=["negative", "positive"])
FEATURES = datasets.Features({"text": datasets.Value("string"), "label": NAMES})


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub; return the calls it gets."""
    calls: list[tuple[object, ...]] = []
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=FEATURES)
    splits = datasets.DatasetDict({"train": rows, "test": rows.select([1])})

    def load(*args: object) -> datasets.DatasetDict:
        calls.append(args)
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("films", ("films", None, None)),
        ("someone/films", ("someone/films", None, None)),
        ("someone/films:short@test", ("someone/films", "short", "test")),
        ("films@validation", ("films", None, "validation")),
    ],
)
def test_spelling(source, parts):
    match = HUB_ID.fullmatch(source)
    assert (match["id"], match["config"], match["split"]) == parts


@pytest.mark.parametrize("source", ["a/b/c", "-x", "a b", "a/b@", "a:b:c"])
def test_what_is_no_hub_id_is_a_missing_file(source):
    assert HUB_ID.fullmatch(source) is None
    with pytest.raises(DataError, match="there is no file"):
        read_rows(source)


def test_rows_with_class_names_and_origins(hub):
    rows = read_rows("someone/films:short")
    assert hub == [("someone/films", "short")]
    assert list(rows.rows) == [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}]
    assert rows.origin(1) == "someone/films[train]:2"


def test_splits(hub):
    assert len(read_rows("someone/films", splits=("validation", "test")).rows) == 1
    assert len(read_rows("someone/films@test").rows) == 1
    assert len(read_rows("someone/films#1").rows) == 1
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test: name one, as in someone/films@train"):
        read_rows("someone/films@dev")
    with pytest.raises(DataError, match="no split 'validation' or 'dev'"):
        from_splits("films", {"train": []}, ("validation", "dev"), "films", None)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route\nto host"),
        datasets.exceptions.DatasetNotFoundError("no route"),
        ValueError("no route"),
        RuntimeError("no route"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_one_line(monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        read_hub("someone/films", ("train",))
    assert str(caught.value) == (
        "no local file is called 'someone/films', and as a hub data set it cannot be had: no route; check "
        "the name, the network and HF_HUB_OFFLINE, or give a .jsonl, .json, .csv or .parquet file"
    )
