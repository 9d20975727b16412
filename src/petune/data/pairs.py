"""Prompts and targets as token ids of their own, for models that read one and write the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from petune.data.encoding import Encoded, EncodedSet, marked_text
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import Fitted, encoded_set, fit, text_ids
from petune.errors import DataError
from petune.sites.placement import Insertion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1000


def encode_pairs(
    examples: ExampleSet,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    overlong: Literal["error", "drop", "truncate"] = "error",
    insertions: Sequence[Insertion] = (),
    room: int | None = None,
) -> EncodedSet:
    """Return each row's prompt as ids and its target as labels, which end with the end-of-text token.

    Args:
        examples: rendered rows.
        tokenizer: the base's.
        max_length: bounds prompt and target each, in tokens.
        overlong: what to do with longer rows; truncate keeps the front.
        insertions: virtual tokens to write into each prompt. Where they come in several versions, so does each row,
            one behind the other.
        room: the most that ``max_length`` could be; None where nothing limits it.

    Raises:
        DataError: rows are too long and ``overlong`` is error; or no row with a target is left.
    """
    dropped: Counter[str] = Counter()
    answered = [example for example in examples if (example.target or "").strip()]
    if len(answered) < len(examples):
        dropped["nothing to learn (the target is empty)"] = len(examples) - len(answered)
    if not answered:
        raise DataError(f"{examples.source}: none of {len(examples):,} rows has a target; see --columns and --target")
    rows = pairs(answered, tokenizer, insertions)
    targets = {row.origin: row.labels for row in rows}
    fitted = fit(
        [row.unlabelled() for row in rows],  # the target has a length of its own
        tokenizer,
        max_length=max_length,
        overlong=overlong,
        insertions=insertions,
        room=room,
        source=examples.source,
    )
    whole = [replace(row, labels=targets[row.origin], is_pair=True) for row in fitted.rows]
    long = [row for row in whole if len(row.labels) > max_length]
    if long and overlong == "error":
        raise DataError(
            f"{len(long):,} of {len(rows):,} targets are longer than {max_length:,} tokens, the first at"
            f" {long[0].origin}; raise --max-length, or choose --overlong drop or truncate"
        )
    if overlong == "drop":
        kept = [row for row in whole if len(row.labels) <= max_length]
        dropped[f"target longer than the maximum length of {max_length:,} tokens"] += len(long)
    else:
        kept = [replace(row, labels=row.labels[:max_length]) for row in whole]
    if not kept:
        raise DataError(f"{examples.source}: every row is longer than {max_length:,} tokens; choose another --overlong")
    cut = fitted.cut | {row.origin for row in long if overlong == "truncate"}
    target = tokenizer.decode(kept[0].labels, clean_up_tokenization_spaces=False)
    return encoded_set(
        examples,
        Fitted(kept, cut, fitted.dropped + dropped),
        max_length=max_length,
        label_tokens=sum(len(row.labels) for row in kept),
        shown=f"{marked_text(kept[0].unlabelled(), tokenizer, insertions)} ⟦{target}⟧",
        insertions=insertions,
    )


def pairs(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", insertions: Sequence[Insertion] = ()
) -> list[Encoded]:
    """Return prompts and targets as token ids, uncut; of several versions the first."""
    rows: list[Encoded] = []
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        prompts = text_ids(chunk, tokenizer, insertions)
        answers = [example.words.get(example.target or "", example.target or "") for example in chunk]
        targets = tokenizer(text_target=answers, verbose=False)["input_ids"]
        for example, ids, target in zip(chunk, prompts, targets, strict=True):
            rows.append(Encoded(ids, _ended(list(target), tokenizer.eos_token_id), example.origin, is_pair=True))
    return rows


def _ended(ids: list[int], end: int | None) -> list[int]:
    return ids if end is None or ids[-1:] == [end] else [*ids, end]
