"""Texts as words, in scripts with and without spaces between them."""

import re
from collections.abc import Sequence

_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3100-\u312f\u31a0-\u31bf"  # bopomofo
)
"""Characters of scripts written without spaces between words, as ranges of a character class."""
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """Return the lower-cased words of any script, and CJK text by character."""
    return _TOKEN.findall(text.lower())


def mostly_cjk(texts: Sequence[str]) -> bool:
    """Say whether more than half of the letters of ``texts`` are CJK characters."""
    cjk = sum(len(_CJK_CHARACTER.findall(text)) for text in texts)
    return 2 * cjk > sum(character.isalpha() for text in texts for character in text)
