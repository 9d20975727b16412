"""Span extraction: the answer to a question is a piece of its context.

A context longer than the model becomes several windows that overlap by half; nothing of it is cut away. One token of
a window stands for "no answer here": windows without the answer learn it, and so do questions without one. It is the
first where the tokenizer begins texts with a token for all of them ([CLS]). Elsewhere it is the last, which ends the
text: in a decoder no token before it sees the whole context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from petune.data.encoding import IGNORED, Encoded, EncodedSet, marked_text
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import Fitted, encoded_set, in_front
from petune.data.layouts import UNANSWERABLE, parse_question_answer
from petune.data.lengths import resolve_max_length
from petune.errors import DataError
from petune.evaluation.predict import Prediction
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, context_length
from petune.sites.placement import Insertion
from petune.tasks.head_task import HeadTask, class_loss

LONGEST_ANSWER = 64
"""Most tokens of an answer."""


@final
@dataclass(frozen=True, slots=True)
class Window(Encoded):
    """A question with a piece of its context."""

    offsets: tuple[tuple[int, int] | None, ...] = ()
    """Where in the context each token starts and ends; None for what is not of the context."""

    no_answer: int = 0
    """The token that says that there is no answer."""


@final
class QuestionAnswering(HeadTask):
    """The first and the last token of the answer. The labels of a window are their two places."""

    name = "question_answering"
    layouts = ("question-answer",)
    compares = "spans"
    default_metrics = ("loss", "span_exact_match", "span_f1")

    def encode(
        self,
        examples: ExampleSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int,
        overlong: Literal["error", "drop", "truncate"] = "error",
        insertions: Sequence[Insertion] = (),
        room: int | None = None,
    ) -> EncodedSet:
        """Return the windows of each row, labelled with the places of the answer's first and last token.

        Raises:
            DataError: an answer is not a piece of its context, or a question leaves no room for one.
        """
        rows: list[Window] = []
        strange = []
        notes = []
        for example in examples:
            span = _span(_slots(example, require_target=True))
            if span is None:
                strange.append(example.origin)
                continue
            rows += (_labelled(window, span) for window in _windows(example, tokenizer, max_length, insertions))
        if strange:
            raise DataError(
                f"the answer is no piece of its context in {len(strange):,} of {len(examples):,} rows:"
                f" {listed(strange)}; write answers as they stand there, or an empty list where there is none"
            )
        if len(rows) > len(examples):
            notes.append(f"long contexts were read in overlapping windows: {len(rows):,} of {len(examples):,} rows")
        first = rows[0]
        start, end = first.labels
        text = marked_text(first.unlabelled(), tokenizer, insertions)
        shown = () if start == first.no_answer else first.input_ids[start : end + 1]
        answer = tokenizer.decode(shown, clean_up_tokenization_spaces=False)
        return encoded_set(
            examples,
            Fitted([*rows]),
            max_length=max_length,
            label_tokens=len(rows),
            shown=f"{text} ⟦{answer}⟧",
            notes=notes,
        )

    def num_labels(self, row: Encoded) -> int:
        """Count a window once: its loss is the mean over start and end."""
        return 1

    def loss(self, output: Any, labels: Tensor, mask: Tensor) -> Tensor:
        """Return half the cross-entropies [B] of start and end among a window's own tokens, labels [B, 2]."""
        padding = mask == 0
        starts, ends = (logits.masked_fill(padding, -torch.inf) for logits in (output.start_logits, output.end_logits))
        return (class_loss(starts, labels[:, 0]) + class_loss(ends, labels[:, 1])) / 2

    def inputs(self, runner: Runner, examples: Sequence[Example]) -> list[list[Encoded]]:
        """Return the windows of each row, as long as rows are by default.

        Raises:
            DataError: a question leaves no room for its context.
        """
        max_length = resolve_max_length(
            None,
            runner.tokenizer,
            model_limit=context_length(runner.model),
            virtual_tokens=runner.virtual_tokens,
        )
        return [[*_windows(example, runner.tokenizer, max_length, runner.insertions)] for example in examples]

    def read(self, output: Any, index: int, row: Encoded) -> Any:
        """Return the best span of a window as (score, first character, end), and the score of no answer."""
        assert isinstance(row, Window)
        size = len(row.offsets)
        starts = output.start_logits[index, :size].to(torch.float32).log_softmax(-1)
        ends = output.end_logits[index, :size].to(torch.float32).log_softmax(-1)
        inside = torch.tensor([offset is not None for offset in row.offsets], device=starts.device)
        scores = starts[:, None] + ends[None, :]
        possible = (inside[:, None] & inside[None, :]).triu() & ~inside.new_ones(size, size).triu(LONGEST_ANSWER)
        none = float(starts[row.no_answer] + ends[row.no_answer])
        if not possible.any():
            return (float("-inf"), 0, 0), none
        best = int(scores.masked_fill(~possible, float("-inf")).argmax())
        first, last = row.offsets[best // size], row.offsets[best % size]
        assert first is not None
        assert last is not None
        return (float(scores.flatten()[best]), first[0], last[1]), none

    def answer(self, runner: Runner, example: Example, found: Sequence[Any]) -> Prediction:
        """Return the best span of all windows, or that there is no answer where that scores higher in each of them."""
        slots = _slots(example, require_target=False)
        score, start, end = max(span for span, _ in found)
        none = min(score for _, score in found)
        texts = slots["texts"]
        reference = None if texts is None else tuple(dict.fromkeys(texts)) or (UNANSWERABLE,)
        if none > score:
            details: dict[str, Any] = {"score": none, "start": None, "end": None}
            return Prediction(example.origin, example.fields, UNANSWERABLE, reference, None, details)
        details = {"score": score, "start": start, "end": end}
        return Prediction(example.origin, example.fields, slots["context"][start:end], reference, None, details)


def _slots(example: Example, *, require_target: bool) -> Mapping[str, Any]:
    return parse_question_answer(example.fields, require_target)


def _span(slots: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return where the first answer stands in the context; (-1, -1) for no answer, None where it is not there."""
    if not slots["texts"]:
        return -1, -1
    text, start = slots["texts"][0], slots["starts"][0]
    if start is None:
        start = slots["context"].find(text)
    found = bool(text) and start >= 0 and slots["context"][start : start + len(text)] == text
    return (start, start + len(text)) if found else None


def _windows(
    example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int, insertions: Sequence[Insertion]
) -> list[Window]:
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} cannot tell where in a text a token stands; question answering"
            " needs a fast one (tokenizer.json)"
        )
    slots = _slots(example, require_target=False)
    question = tokenizer(slots["question"], add_special_tokens=False, verbose=False)["input_ids"]
    begins, closing = _special_tokens(tokenizer)
    max_length -= sum(insertion.placement.num_virtual_tokens for insertion in insertions) + len(closing)
    room = max_length - len(question) - tokenizer.num_special_tokens_to_add(pair=True)
    if not slots["context"].strip() or not question:
        raise DataError(f"{example.origin}: question or context is empty; give both")
    if room < 2:
        raise DataError(
            f"{example.origin}: the question has {len(question)} tokens, which leaves no room for its context in"
            f" {max_length:,}; shorten it, or raise --max-length where the model has more positions"
        )
    batch = tokenizer(
        slots["question"],
        slots["context"],
        truncation="only_second",
        max_length=max_length,
        stride=room // 2,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    windows = []
    for number, ids in enumerate(batch["input_ids"]):
        of_context = [part == 1 for part in batch.sequence_ids(number)] + [False] * len(closing)
        offsets = batch["offset_mapping"][number]
        types = [*batch["token_type_ids"][number], *[1] * len(closing)] if "token_type_ids" in batch else None
        written = [*ids, *closing]
        whole, places = in_front(written, insertions, tokenizer)
        windows.append(
            Window(
                whole,
                [IGNORED, IGNORED],
                example.origin,
                [] if types is None else [0 if place is None else types[place] for place in places],
                offsets=tuple(offsets[p] if p is not None and of_context[p] else None for p in places),
                no_answer=places.index(0 if begins else len(written) - 1),
            )
        )
    return windows


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, list[int]]:
    """Say whether the tokenizer begins a text with a token for all of it, and what has to be added at its end."""
    added = tokenizer("", "", verbose=False)["input_ids"]
    if added and added[0] == tokenizer.cls_token_id:
        return True, []
    end = next(
        token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id) if token is not None
    )
    return False, [] if added[-1:] == [end] else [end]


def _labelled(window: Window, span: tuple[int, int]) -> Window:
    """Return the window with the places of the answer's tokens; those of no answer where it is not in it whole."""
    first, after = span
    inside = [(t, offset) for t, offset in enumerate(window.offsets) if offset is not None]
    covered = [t for t, (start, end) in inside if start < after and end > first]
    whole = inside and inside[0][1][0] <= first and after <= inside[-1][1][1]
    places = [covered[0], covered[-1]] if covered and whole and first >= 0 else [window.no_answer, window.no_answer]
    return replace(window, labels=places)
