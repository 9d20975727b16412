"""Rows with a gap that is filled in: mask tokens stand in the answer's place, its own tokens are their labels.

The text of a row is tokenised whole, with one mask token in it, which is then repeated as often as the answer has
tokens. The answer is tokenised by itself, with one space before it where white space comes before it in the text, so
no token holds both a piece of it and of the text around it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, final

from petune.data.encoding import IGNORED, Encoded, EncodedSet, marked_text
from petune.data.examples import Example, ExampleSet, Segment
from petune.data.fitting import Fitted, encoded_set, fit
from petune.data.insertion import with_virtual_tokens
from petune.data.tokens import tokenise
from petune.errors import ConfigError, DataError
from petune.sites.placement import Insertion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1000
_HOW = "write {{ mask }} where the answer stands, such as --template '{{ text }} It was {{ mask }}.'"


@final
@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The tokens of answers, each text looked up once."""

    tokenizer: "PreTrainedTokenizerBase"
    _found: dict[str, list[int]] = field(default_factory=dict)

    def of(self, example: Example, answer: str) -> list[int]:
        """Return the tokens of an answer, or of the word that stands for it.

        Raises:
            DataError: it has none, or one that stands for every word the tokenizer does not know.
        """
        text = (" " if example.lead else "") + example.words.get(answer, answer)
        if text not in self._found:
            self._found[text] = list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        ids = self._found[text]
        if not ids or self.tokenizer.unk_token_id in ids:
            raise DataError(
                f"{example.origin}: the answer '{text.strip()}' has no token of its own in this model's vocabulary;"
                " rename it, or choose other words with --verbalizer"
            )
        return ids

    def of_labels(self, example: Example, labels: Iterable[str]) -> list[list[int]]:
        """Return the tokens of each label as the answer to one row, equally many.

        Raises:
            DataError: they are not equally many, or the same for two labels.
        """
        found = {label: self.of(example, label) for label in labels}
        counts = {example.words.get(label, label): len(ids) for label, ids in found.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"'{word}' has {count}" for word, count in counts.items())
            raise DataError(
                f"label words fill in the same gap, so they must be of equally many tokens, and {shown}; choose other"
                " words with --verbalizer"
            )
        if len({tuple(ids) for ids in found.values()}) < len(found):
            raise DataError(
                f"two of the label words {', '.join(counts)} are the same tokens to this model; choose other words with"
                " --verbalizer"
            )
        return list(found.values())


def check_gap(suffix: str | None, placements: int, origin: str) -> None:
    """Check that a row has one place for its answer.

    Args:
        suffix: the text behind the answer, where the row's own template says where it stands; else None.
        placements: how many adapters say where it stands.
        origin: what the row is called.

    Raises:
        DataError: it has none, or more than one.
    """
    places = placements + (suffix is not None)
    if places != 1:
        what = "nothing says where its answer stands" if places == 0 else f"its answer has {places} places"
        raise DataError(f"{origin}: {what}; {_HOW}, or {{mask}} once in the adapter's own template")


def with_gaps(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    insertions: Sequence[Insertion],
    answers: Sequence[Sequence[int]],
) -> list[Encoded]:
    """Return each row with as many mask tokens as its answer has; their labels are its tokens. Rows are not cut.

    Raises:
        ConfigError: the tokenizer has no mask token.
        DataError: a row has no place for its answer, or two, or holds a mask token besides.
    """
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            "this model's tokenizer has no mask token, so no answer can be filled in; use a base that was trained with"
            " one, such as BERT or RoBERTa, or another --task"
        )
    placements = sum(insertion.placement.places_answer for insertion in insertions)
    rows: list[Encoded] = []
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        for example in chunk:
            check_gap(example.suffix, placements, example.origin)
        written = [with_virtual_tokens(_masked(example, str(tokenizer.mask_token)), insertions) for example in chunk]
        for tokens, example, answer in zip(
            tokenise(written, tokenizer), chunk, answers[start : start + _CHUNK], strict=True
        ):
            masks = tokens.ids.count(tokenizer.mask_token_id)
            if masks != 1:
                raise DataError(
                    f"{example.origin}: the row's own text holds {tokenizer.mask_token}, which is for the answer alone;"
                    f" {_HOW}"
                )
            place = tokens.ids.index(tokenizer.mask_token_id)
            front, behind = tokens.ids[:place], tokens.ids[place + 1 :]
            ids = [*front, *[tokenizer.mask_token_id] * len(answer), *behind]
            rows.append(Encoded(ids, [*[IGNORED] * len(front), *answer, *[IGNORED] * len(behind)], example.origin))
    return rows


def encode_cloze(
    examples: ExampleSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    labels: Sequence[str] = (),
    max_length: int,
    overlong: Literal["error", "drop", "truncate"] = "error",
    insertions: Sequence[Insertion] = (),
    room: int | None = None,
) -> EncodedSet:
    """Return rows whose gaps are labelled with the tokens of their answers.

    Args:
        examples: rendered rows.
        tokenizer: the base's.
        labels: the labels that answers are told apart by; without any, an answer is one token.
        max_length: longest row in tokens.
        overlong: what to do with longer rows; truncate keeps the front.
        insertions: virtual tokens to write into each row. Where they come in several versions, so does each row, one
            behind the other.
        room: the most that ``max_length`` could be; None where nothing limits it.

    Raises:
        ConfigError: the tokenizer has no mask token.
        DataError: an answer cannot fill a gap, a row has no place for it, or no row is left.
    """
    answered = [example for example in examples if (example.target or "").strip()]
    if not answered:
        raise DataError(f"{examples.source}: none of {len(examples):,} rows has a target; see --columns and --target")
    found = AnswerTokens(tokenizer)
    rows = with_gaps(answered, tokenizer, insertions, [_own(example, labels, found) for example in answered])
    fitted = fit(
        rows,
        tokenizer,
        max_length=max_length,
        overlong=overlong,
        insertions=insertions,
        room=room,
        source=examples.source,
    )
    wanted = {row.origin: _gap(row) for row in rows}
    whole = [row for row in fitted.rows if _gap(row) == wanted[row.origin]]
    lost = {
        "nothing to learn (the target is empty)": len(examples) - len(answered),
        f"the answer's place lies beyond the maximum length of {max_length:,} tokens": len(fitted.rows) - len(whole),
    }
    if not whole:
        raise DataError(
            f"{examples.source}: the answer's place lies beyond {max_length:,} tokens in every row; raise --max-length,"
            " or put {{ mask }} before the text"
        )
    dropped = fitted.dropped + Counter({reason: count for reason, count in lost.items() if count})
    answer = tokenizer.decode([label for label in whole[0].labels if label != IGNORED])
    return encoded_set(
        examples,
        Fitted(whole, fitted.cut & {row.origin for row in whole}, dropped),
        max_length=max_length,
        label_tokens=sum(_gap(row) for row in whole),
        shown=f"{marked_text(whole[0].unlabelled(), tokenizer, insertions)} ⟦{answer}⟧",
        insertions=insertions,
    )


def _masked(example: Example, mask: str) -> Example:
    """Return a row with a mask token's text in the place of its answer."""
    segments = [Segment(example.prompt, learned=False), Segment(mask, learned=True)]
    if example.suffix:
        segments.append(Segment(example.suffix, learned=False))
    return replace(example, segments=tuple(segments), add_special_tokens=True)


def _own(example: Example, labels: Sequence[str], found: AnswerTokens) -> list[int]:
    """Return the tokens of a row's own answer."""
    target = str(example.target)
    if labels:
        return found.of_labels(example, labels)[list(labels).index(target)]
    ids = found.of(example, target)
    if len(ids) > 1:
        raise DataError(
            f"{example.origin}: the answer '{target}' is {len(ids)} tokens; answers that are no labels are one token"
            " each, so leave the row out, or give rows with 'text' and 'label'"
        )
    return ids


def _gap(row: Encoded) -> int:
    return sum(label != IGNORED for label in row.labels)
