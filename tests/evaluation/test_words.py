import unicodedata

from petune.evaluation.words import mostly_cjk, pieces, words


def test_words_of_any_script() -> None:
    assert words("The Film_2, c'est 很好!") == ["the", "film", "2", "c", "est", "很", "好"]


def test_marks_belong_to_their_words() -> None:
    for text in ("किताब पढ़ो", "สวัสดี ครับ", "école où", "שָׁלוֹם עוֹלָם"):
        assert [unicodedata.normalize("NFC", word) for word in text.split()] == words(text)
        assert words(unicodedata.normalize("NFD", text)) == words(text)
    assert words("किताब") != words("केतोब")


def test_pieces_lose_their_punctuation_and_stay_whole() -> None:
    assert pieces("The U.S. had 1,000 well-known «films», c'est 很好!") == [
        *("the", "us", "had", "1000", "wellknown", "films", "cest", "很", "好")
    ]
    assert pieces("% $") == []


def test_mostly_cjk() -> None:
    assert mostly_cjk(["这部电影很好 (quite a good film)"]) is False
    assert mostly_cjk(["这部电影真的很好看 film"]) is True
    assert mostly_cjk(["映画はとても良い"]) is True
    assert mostly_cjk(["..."]) is False
