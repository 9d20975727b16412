"""How likely a masked language model finds answers: the row is read whole, and the answer's tokens scored at its gap.

    log p(answer | row) = sum_i log p(token_i | the row with a mask in the place of each token of the answer)

Label words are compared at one gap, in one forward pass. Without labels, the likeliest token is the answer.
"""

from collections import Counter
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from petune.data.cloze import AnswerTokens, encode_cloze, with_gaps
from petune.data.encoding import IGNORED, Encoded
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import versions_of
from petune.data.lengths import resolve_max_length
from petune.errors import DataError
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.likelihood import read_both
from petune.evaluation.loss import TokenLoss
from petune.evaluation.options import GenerationOptions
from petune.evaluation.passes import Query
from petune.evaluation.predict import are_choices
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, context_length, longest_input, versions
from petune.evaluation.scoring import Choice, check_labels, combined_choice, distinct_labels


def labels_in(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels that the answers to classification rows are told apart by; none for other rows."""
    return distinct_labels(examples) if are_choices(examples) else ()


@final
class MaskedLikelihood:
    """Answers filled in by a model that reads a row on both sides of them."""

    def encode(self, runner: Runner, examples: ExampleSet) -> list[Encoded]:
        """Return rows with gaps, labelled with the tokens of their answers."""
        longest = resolve_max_length(
            None, runner.tokenizer, model_limit=context_length(runner.model), virtual_tokens=runner.virtual_tokens
        )
        return encode_cloze(
            examples,
            runner.tokenizer,
            labels=labels_in(examples),
            max_length=longest,
            insertions=runner.insertions,
        ).rows

    def measure(
        self,
        runner: Runner,
        rows: Sequence[Encoded] | None,
        examples: Sequence[Example],
        labels: Sequence[str],
        *,
        batch_tokens: int,
    ) -> tuple[TokenLoss | None, list[Choice]]:
        """Return the loss of the tokens in the gaps of ``rows``, and the scores of every label in each row's gap.

        Raises:
            ConfigError: the labels cannot be compared.
            DataError: label words do not fit the same gap, or a row does not fit the model.
        """
        loss = None if rows is None else _loss(rows)
        choices = _choices(runner, examples, labels) if labels else None
        return read_both(runner, loss, choices, batch_tokens=batch_tokens)

    def texts(
        self, runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
    ) -> list[str]:
        """Fill one token into the gap of every row: the likeliest that is no special one.

        Raises:
            DataError: a row does not fit the model.
        """
        tokenizer = runner.tokenizer
        special = torch.tensor(tokenizer.all_special_ids)
        rows = _written(runner, examples, [[tokenizer.pad_token_id]] * len(examples))

        def read(index: int, first: int, log_probabilities: Tensor) -> Tensor:
            return log_probabilities[0].index_fill(0, special.to(log_probabilities.device), -torch.inf).argmax()

        reading = Reading(_gaps(rows), read, list)
        (found,) = read_log_probabilities(runner, [reading], batch_tokens=options.batch_tokens)
        best = [int(token) for token in found]
        number, _ = versions(runner)
        voted = [Counter(best[i : i + number]).most_common(1)[0][0] for i in range(0, len(best), number)]
        return [str(tokenizer.decode([token])).strip() for token in voted]


def _loss(rows: Sequence[Encoded]) -> Reading[TokenLoss]:
    answers = [torch.tensor([label for label in row.labels if label != IGNORED]) for row in rows]

    def read(index: int, first: int, log_probabilities: Tensor) -> Tensor:
        answer = answers[index][first : first + len(log_probabilities)].to(log_probabilities.device)
        return -log_probabilities.gather(1, answer[:, None]).sum()

    def finish(losses: list[Tensor]) -> TokenLoss:
        return TokenLoss.of(rows, (loss.item() for loss in losses), map(len, answers))

    return Reading(_gaps(rows), read, finish)


def _choices(runner: Runner, examples: Sequence[Example], labels: Sequence[str]) -> Reading[list[Choice]]:
    check_labels(labels)
    found = AnswerTokens(runner.tokenizer)
    words = [found.of_labels(example, labels) for example in examples]
    number, combine = versions(runner)

    def read(index: int, first: int, log_probabilities: Tensor) -> Tensor:
        ids = torch.tensor(words[index // number], device=log_probabilities.device)  # [labels, K]
        return log_probabilities.gather(1, ids.T[first : first + len(log_probabilities)]).sum(0)

    def finish(own: list[Tensor]) -> list[Choice]:
        scores = [score.tolist() for score in own]
        return [combined_choice(labels, scores[i : i + number], combine) for i in range(0, len(scores), number)]

    return Reading(_gaps(_written(runner, examples, [own[0] for own in words])), read, finish)


def _written(runner: Runner, examples: Sequence[Example], answers: Sequence[Sequence[int]]) -> list[Encoded]:
    """Return every version of every row, with a gap for an answer of as many tokens.

    Raises:
        DataError: a row is longer than the model's context.
    """
    rows = with_gaps(examples, runner.tokenizer, runner.insertions, answers)
    limit = longest_input(runner)
    long = [row.origin for row in rows if limit is not None and len(row.input_ids) > limit]
    if long:
        raise DataError(
            f"{len(long):,} of {len(rows):,} rows are longer than the model's {limit:,} tokens: {listed(long)};"
            " shorten them"
        )
    return [version for row in rows for version in versions_of(row, runner.insertions)]


def _gaps(rows: Sequence[Encoded]) -> list[Query]:
    """Return what asks for the log-probabilities [K, V] at the gap of each row."""
    return [
        Query(row.input_ids, [t for t, label in enumerate(row.labels) if label != IGNORED], whole=True) for row in rows
    ]
