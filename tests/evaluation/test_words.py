from petune.evaluation.words import mostly_cjk, words


def test_words_of_any_script() -> None:
    assert words("The Film_2, c'est 很好!") == ["the", "film", "2", "c", "est", "很", "好"]


def test_mostly_cjk() -> None:
    assert mostly_cjk(["这部电影很好 (quite a good film)"]) is False
    assert mostly_cjk(["这部电影真的很好看 film"]) is True
    assert mostly_cjk(["映画はとても良い"]) is True
    assert mostly_cjk(["..."]) is False
