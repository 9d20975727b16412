"""The log-probability of each label word as the answer to a prompt.

A label is tokenised together with its prompt, as in training, and its score is

    log p(label, end | prompt) = sum_t log p(token_t | prompt, tokens before t) + log p(end | prompt, label)

where the end is any token that ends an answer: without it a label that is the start of another would always
win. Where every label of a row is one token after the same prompt tokens, none can be the start of another:
then log p(token | prompt) is the score, and one forward pass serves all labels.

Where an adapter writes a row in several versions, all are scored together, and the answer is by their mean: of the
labels' shares among themselves, or, first, of the votes for each label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from petune.data.encoding import IGNORED, encode
from petune.data.examples import Example, ExampleSet, Segment
from petune.errors import ConfigError, DataError
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.passes import Query
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, end_token_ids, longest_input, versions
from petune.sites.placement import Combine

_NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class Choice:
    """The scores of one row's labels."""

    label: str
    """The likeliest; of equal ones the first."""
    log_probabilities: tuple[float, ...]
    """For each label, in nats; see the module for what is summed. Of several versions: of the mean share."""

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Shares of the labels among themselves; they add up to 1."""
        return tuple(torch.tensor(self.log_probabilities, dtype=torch.float64).softmax(0).tolist())


def distinct_labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the distinct labels of classification rows, sorted; where a verbalizer has words for more, those too."""
    found = {example.choices_key for example in examples if example.choices_key is not None}
    return tuple(sorted(found.union(*(example.words for example in examples))))


def check_labels(labels: Sequence[str]) -> None:
    """Check that ``labels`` can be compared.

    Raises:
        ConfigError: fewer than two labels, an empty one, or one given twice.
    """
    if len(labels) < 2:
        got = f"'{labels[0]}' alone" if labels else "none"
        raise ConfigError(f"choosing needs at least two labels, got {got}; name them all with --labels")
    for label in labels:
        if not label or label != label.strip():
            raise ConfigError(f"label {label!r} is empty or has white space around it; give the bare word")
        if labels.count(label) > 1:
            raise ConfigError(f"label '{label}' is given twice; give each label once")


def score_choices(
    runner: Runner, examples: Sequence[Example], labels: Sequence[str], *, batch_tokens: int = 8192
) -> list[Choice]:
    """Score every label as the answer to every row's prompt; results come in the order of the rows.

    Args:
        runner: the model.
        examples: rows; their own targets are not looked at, but for the white space that comes before an
            answer.
        labels: label words, without white space around them.
        batch_tokens: most tokens of a batch, padding included.

    Raises:
        ConfigError: the labels cannot be compared.
        DataError: a row with its label is longer than the model's context, or a label has no token.
    """
    found: list[Choice]
    (found,) = read_log_probabilities(runner, [choices_reading(runner, examples, labels)], batch_tokens=batch_tokens)
    return found


def choices_reading(runner: Runner, examples: Sequence[Example], labels: Sequence[str]) -> Reading[list[Choice]]:
    """Return what is to be read for :func:`score_choices`, with the same arguments and errors."""
    check_labels(labels)
    rows = _encode(runner, examples, labels) if examples else []
    number, combine = versions(runner)
    ends = torch.tensor(end_token_ids(runner), dtype=torch.int64)
    queries: list[Query] = []
    reads: list[tuple[int, int | None]] = []
    for i, continuations in enumerate(rows):
        if _share_one_pass(continuations):
            prompt = continuations[0].prompt
            queries.append(Query(prompt, [len(prompt) - 1]))
            reads.append((i, None))
            continue
        for c, continuation in enumerate(continuations):
            ids = [*continuation.prompt, *continuation.answer]
            first, after = len(continuation.prompt) - 1, len(ids) - (0 if len(ends) else 1)
            queries.append(Query(ids, range(first, after)))
            reads.append((i, c))

    def read(index: int, first: int, log_probabilities: Tensor) -> Tensor:
        row, label = reads[index]
        if label is None:
            tokens = torch.tensor([c.answer[0] for c in rows[row]], device=log_probabilities.device)
            return log_probabilities[0, tokens]
        whole = rows[row][label].answer
        answer = torch.tensor(whole[first : first + len(log_probabilities)], device=log_probabilities.device)
        score = log_probabilities[: len(answer)].gather(1, answer[:, None]).sum()
        if first + len(log_probabilities) > len(whole):  # its end is among these
            score = score + log_probabilities[-1, ends.to(score.device)].logsumexp(0)
        return score[None]

    def finish(found: list[Tensor]) -> list[Choice]:
        scores: list[list[float]] = [[] for _ in rows]
        for (row, _), values in zip(reads, found, strict=True):
            scores[row].extend(values.tolist())
        return [combined_choice(labels, scores[i : i + number], combine) for i in range(0, len(rows), number)]

    return Reading(queries, read, finish)


def combined_choice(labels: Sequence[str], scores: Sequence[Sequence[float]], combine: Combine) -> Choice:
    """Return the choice that the log-probabilities of one row's versions make."""
    values = torch.tensor(scores, dtype=torch.float64)
    if len(scores) == 1:
        return Choice(labels[int(values[0].argmax())], tuple(scores[0]))
    shares = values.log_softmax(1).logsumexp(0) - math.log(len(scores))
    votes = values.argmax(1).bincount(minlength=len(labels)) * (combine == "vote")
    ranks = list(zip(votes.tolist(), shares.tolist(), strict=True))
    return Choice(labels[max(range(len(labels)), key=ranks.__getitem__)], tuple(shares.tolist()))


@dataclass(frozen=True, slots=True)
class _Continuation:
    prompt: list[int]
    answer: list[int]


def _share_one_pass(continuations: Sequence[_Continuation]) -> bool:
    return all(len(c.answer) == 1 and c.prompt == continuations[0].prompt for c in continuations)


def _encode(runner: Runner, examples: Sequence[Example], labels: Sequence[str]) -> list[list[_Continuation]]:
    """Tokenise every version of every row with every label, as training does."""
    answered = [
        replace(
            example,
            segments=(
                Segment(example.prompt, learned=False),
                Segment(answer_lead(example) + example.words.get(label, label), learned=True),
            ),
        )
        for example in examples
        for label in labels
    ]
    encoded = encode(
        ExampleSet(answered, source="the labels", layout="choices"),
        runner.tokenizer,
        max_length=_NO_LIMIT,
        eos=False,
        insertions=runner.insertions,
    ).rows
    number, _ = versions(runner)
    if len(encoded) != len(answered) * number:
        raise DataError(f"one of the labels {', '.join(labels)} has no token in this model's vocabulary; rename it")
    continuations = []
    for row in encoded:
        first = next(t for t, label in enumerate(row.labels) if label != IGNORED)
        last = max(t for t, label in enumerate(row.labels) if label != IGNORED)
        continuations.append(_Continuation(row.input_ids[:first], row.input_ids[first : last + 1]))
    _check_lengths(runner, examples, continuations, len(labels) * number)
    of_one_row = len(labels) * number
    return [
        continuations[i + version : i + of_one_row : number]
        for i in range(0, len(continuations), of_one_row)
        for version in range(number)
    ]


def _check_lengths(
    runner: Runner, examples: Sequence[Example], continuations: Sequence[_Continuation], of_one_row: int
) -> None:
    limit = longest_input(runner)
    bare = [examples[i // of_one_row].origin for i, c in enumerate(continuations) if not c.prompt]
    if bare:
        raise DataError(
            f"no token comes before the label in {listed(list(dict.fromkeys(bare)))}; give each row a prompt"
        )
    long = [
        examples[i // of_one_row].origin
        for i, c in enumerate(continuations)
        if limit is not None and len(c.prompt) + len(c.answer) > limit
    ]
    if long:
        rows = list(dict.fromkeys(long))
        raise DataError(
            f"{len(rows):,} of {len(examples):,} rows with their labels are longer than the model's context "
            f"of {limit:,} tokens: {listed(rows)}; shorten them, or use a model with a longer context"
        )


def answer_lead(example: Example) -> str:
    """Return what stands between the prompt and an answer: white space, and what a chat template writes there.

    It is what comes before the row's own target; in a row without one, what its target template starts with. Where
    there is no such template, it is a space after a character that is none.
    """
    text = "".join(segment.text for segment in example.segments)
    written = "" if example.add_special_tokens else example.lead or ""
    if example.target and text.startswith(example.prompt + written):
        rest = text[len(example.prompt + written) :]
        return written + rest[: len(rest) - len(rest.lstrip())]
    if example.lead is not None:
        return example.lead
    if not example.add_special_tokens or not example.prompt or example.prompt[-1].isspace():
        return ""
    return " "
