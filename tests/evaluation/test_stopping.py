"""Where texts end, found from their last tokens: as decoding all of them would."""

import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from petune.evaluation.stopping import StopText, decode, first_stop
from petune.evaluation.stream import TextAssembler

TEXT = "the river rises in the hills, 很好很好。 és 🙂🙃 and the hills are green " * 4
WORDS = ["▁the", "▁hills", "▁are", "s", "▁", "green", "。", "e", "▁🙂"]


@pytest.fixture
def pieces() -> PreTrainedTokenizerFast:
    """As SentencePiece writes them: a space before a word, none at a text's start, bytes of what has no token."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    tokens = [*special, *[f"<0x{byte:02X}>" for byte in range(256)], *WORDS]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


@pytest.fixture(params=["bytes", "merged", "pieces"])
def any_tokenizer(
    request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase, tiny_tokenizer, pieces: PreTrainedTokenizerFast
) -> PreTrainedTokenizerBase:
    return {"bytes": tiny_tokenizer, "merged": tokenizer, "pieces": pieces}[request.param]


def drawn(tokenizer: PreTrainedTokenizerBase, source: random.Random, kind: str) -> list[int]:
    """Return the tokens of a text, or any tokens; in pieces, where one byte may change all before it, any words."""
    if kind == "text":
        ids: list[int] = tokenizer(TEXT[source.randrange(20) :], add_special_tokens=False)["input_ids"]
        return ids
    first = tokenizer.get_vocab().get("▁the", 3)
    return [0 if source.random() < 0.05 else source.randrange(first, len(tokenizer)) for _ in range(300)]


class Whole:
    """What TextAssembler does, with all tokens decoded each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self.tokenizer, self.stop, self.ids, self.given = tokenizer, stop, [], 0

    def push(self, token: int) -> str:
        self.ids.append(token)
        text = decode(self.tokenizer, self.ids)
        place = first_stop(text, self.stop)
        if place is None:
            text = text.rstrip("\ufffd")
            started = [n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n])]
            place = len(text) - max(started, default=0)
        piece = text[self.given : place]
        self.given += len(piece)
        return piece


@pytest.mark.parametrize("kind", ["text", "any"])
@pytest.mark.parametrize("seed", range(8))
def test_pieces_are_those_of_decoding_everything(any_tokenizer, kind: str, seed: int) -> None:
    source = random.Random(seed)
    ids = drawn(any_tokenizer, source, kind)
    text = decode(any_tokenizer, ids)
    at = source.randrange(200, len(text) - 10)
    for stop in ((), ("zzz", text[at : at + source.randrange(2, 9)])):
        assembler, whole = TextAssembler(any_tokenizer, stop), Whole(any_tokenizer, stop)
        got = [assembler.push(token) for token in ids]
        assert got == [whole.push(token) for token in ids]
        assert "".join(got) + assembler.finish() == text[: first_stop(text, stop)]


@pytest.mark.parametrize("kind", ["text", "any"])
@pytest.mark.parametrize("seed", range(8))
def test_rows_end_where_decoding_everything_ends_them(any_tokenizer, kind: str, seed: int) -> None:
    source = random.Random(seed)
    rows = [drawn(any_tokenizer, source, kind)[:200] for _ in range(2)]
    texts = [decode(any_tokenizer, row) for row in rows]
    at = source.randrange(100, 120)
    stop = ("zzz", texts[0][at : at + source.randrange(1, 9)], texts[1][at + 9 : at + 30])
    prompt = [[5, 6, 7]] * 2
    criterion = StopText(any_tokenizer, stop, 3)
    ended = torch.zeros(2, dtype=torch.bool)
    for length in range(1, min(map(len, rows)) + 1):
        ended |= criterion(torch.tensor([p + row[:length] for p, row in zip(prompt, rows, strict=True)]), None)
        texts = [decode(any_tokenizer, row[:length]) for row in rows]
        assert ended.tolist() == [first_stop(text, stop) is not None for text in texts]
    assert ended.any()


def test_a_long_text_takes_no_longer_by_the_token(any_tokenizer) -> None:
    decoded: list[int] = []

    class Counting:
        def decode(self, ids: Sequence[int], **options: object) -> str:
            decoded.append(len(ids))
            return any_tokenizer.decode(ids, **options)

    for text in (TEXT * 4, "很好。" * 200, "🙂 " * 200):
        ids = any_tokenizer(text, add_special_tokens=False)["input_ids"]
        assembler, criterion = TextAssembler(Counting(), ("never",)), StopText(Counting(), ("never",), 0)
        for token in ids:
            assembler.push(token)
        criterion(torch.tensor([ids]), None)
        assert len(ids) > 400
        assert max(decoded) < 100
