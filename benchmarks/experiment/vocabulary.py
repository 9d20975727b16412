"""Tokens worth adding to a tokenizer for a text: characters, and pairs of them, that it cuts into several pieces."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

_RUN = re.compile(r"[\u4e00-\u9fff]+")
LEAST = 2
"""How often a character or pair must occur."""


def worthwhile(texts: Iterable[str], pieces: Callable[[str], int], count: int) -> list[str]:
    """Return the ``count`` tokens that save the most pieces, the best first.

    Args:
        texts: what is to be shorter.
        pieces: into how many tokens a text is cut now.
        count: how many to return, or fewer where the texts hold fewer.
    """
    runs = [run for text in texts for run in _RUN.findall(text)]
    characters = Counter(character for run in runs for character in run)
    pairs = Counter(run[i : i + 2] for run in runs for i in range(len(run) - 1))
    saved = {one: times * (pieces(one) - 1) for one, times in characters.items() if times >= LEAST}
    # Where both its characters become tokens, a pair saves one more.
    saved |= {pair: times for pair, times in pairs.items() if times > LEAST and pieces(pair) > 1}
    best = sorted((token for token, gain in saved.items() if gain > 0), key=lambda token: (-saved[token], token))
    return best[:count]


def per_character(texts: Sequence[str], pieces: Callable[[str], int]) -> float:
    """Return the tokens for each character."""
    return sum(map(pieces, texts)) / sum(map(len, texts))
