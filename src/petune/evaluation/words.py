"""Texts as words, in scripts with and without spaces between them."""

import re
import string
import unicodedata
from collections.abc import Sequence

import regex

_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3100-\u312f\u31a0-\u31bf"  # bopomofo
)
"""Characters of scripts written without spaces between words, as ranges of a character class."""
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_TOKEN = regex.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[\p{{L}}\p{{N}}\p{{M}}])+")
"""A word holds its marks: vowel signs of Indic scripts, Thai tones, accents that are characters of their own."""
_PIECE = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_PUNCTUATION = frozenset(string.punctuation)


def words(text: str) -> list[str]:
    """Return the lower-cased words of any script, and CJK text by character."""
    found: list[str] = _TOKEN.findall(_composed(text))
    return found


def pieces(text: str) -> list[str]:
    """Return what white space separates, lower-cased and without punctuation, and CJK text by character."""
    kept = "".join(c for c in _composed(text) if c not in _PUNCTUATION and not unicodedata.category(c).startswith("P"))
    return _PIECE.findall(kept)


def mostly_cjk(texts: Sequence[str]) -> bool:
    """Say whether more than half of the letters of ``texts`` are CJK characters."""
    cjk = sum(len(_CJK_CHARACTER.findall(text)) for text in texts)
    return 2 * cjk > sum(character.isalpha() for text in texts for character in text)


def _composed(text: str) -> str:
    """Return the text in lower case, with one character for a letter and its accent where Unicode has one."""
    return unicodedata.normalize("NFC", text.lower())
