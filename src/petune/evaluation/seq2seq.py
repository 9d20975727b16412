"""How likely an encoder-decoder finds targets: the prompt is read by the encoder, the target scored in the decoder.

Shapes: B rows, T target tokens, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from petune.backbone.arguments import decoder_inputs
from petune.data.batching import collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import versions_of
from petune.data.lengths import resolve_max_length
from petune.data.pairs import encode_pairs, pairs
from petune.errors import DataError
from petune.evaluation.head import MAX_LOGITS, logits_in_parts
from petune.evaluation.likelihood import generated_texts
from petune.evaluation.loss import TokenLoss
from petune.evaluation.options import GenerationOptions
from petune.evaluation.runner import Runner, context_length, evaluating, longest_input, versions
from petune.evaluation.scoring import Choice, check_labels, combined_choice


@final
class Seq2SeqLikelihood:
    """Prompts in the encoder, targets in the decoder."""

    def encode(self, runner: Runner, examples: ExampleSet) -> list[Encoded]:
        """Return prompts as ids and targets as labels."""
        longest = resolve_max_length(
            None, runner.tokenizer, model_limit=context_length(runner.model), virtual_tokens=runner.virtual_tokens
        )
        return encode_pairs(examples, runner.tokenizer, max_length=longest, insertions=runner.insertions).rows

    def measure(
        self,
        runner: Runner,
        rows: Sequence[Encoded] | None,
        examples: Sequence[Example],
        labels: Sequence[str],
        *,
        batch_tokens: int,
    ) -> tuple[TokenLoss | None, list[Choice]]:
        """Return the loss of the targets, and the scores of every label, and the end after it, as each row's target.

        Raises:
            ConfigError: the labels cannot be compared.
            DataError: there is no target, or a prompt does not fit the model.
        """
        own, asked = list(rows or ()), _labelled(runner, examples, labels) if labels else []
        tokens = [len(row.labels) for row in own]
        if rows is not None and not any(tokens):
            raise DataError(f"none of the {len(rows):,} rows has a target to compute a loss on; give rows with targets")
        found = log_likelihoods(runner, [*own, *asked], batch_tokens=batch_tokens)
        loss = None if rows is None else TokenLoss.of(own, (-likely for likely in found[: len(own)]), tokens)
        if not asked:
            return loss, []
        number, combine = versions(runner)
        scores = torch.tensor(found[len(own) :], dtype=torch.float64)
        by_version = scores.view(len(examples), len(labels), number).transpose(1, 2).tolist()
        return loss, [combined_choice(labels, scored, combine) for scored in by_version]

    def texts(
        self, runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
    ) -> list[str]:
        """Generate a target for every prompt."""
        return generated_texts(runner, examples, options, first_row=first_row)


def _labelled(runner: Runner, examples: Sequence[Example], labels: Sequence[str]) -> list[Encoded]:
    """Return every version of every row with every label as its target."""
    check_labels(labels)
    asked = [replace(e, target=label) for e in examples for label in labels]
    rows = pairs(asked, runner.tokenizer, runner.insertions)
    limit = longest_input(runner)
    long = next((row.origin for row in rows if limit is not None and len(row.input_ids) > limit), None)
    if long is not None:
        raise DataError(f"the prompt of {long} is longer than the model's {limit:,} positions; shorten it")
    return [version for row in rows for version in versions_of(row, runner.insertions)]


def log_likelihoods(runner: Runner, rows: Sequence[Encoded], *, batch_tokens: int) -> list[float]:
    """Return the log-probability (nats) of each row's labels given its prompt, with the log-softmax in fp32.

    Rows with the same prompt and the same labels are computed once.
    """
    alike = {(tuple(row.input_ids), tuple(row.labels)): row for row in rows}
    found = dict(zip(alike, _log_likelihoods(runner, list(alike.values()), batch_tokens), strict=True))
    return [found[tuple(row.input_ids), tuple(row.labels)] for row in rows]


def _log_likelihoods(runner: Runner, rows: Sequence[Encoded], batch_tokens: int) -> list[float]:
    vocabulary = runner.model.config.vocab_size
    costs = [max(row.num_tokens, -(-len(row.labels) * vocabulary * batch_tokens // MAX_LOGITS)) for row in rows]
    results: dict[int, float] = {}
    with evaluating(runner):
        targets = [row.target_tokens for row in rows]
        for batch in split_step(range(len(rows)), costs, max_rows=None, max_tokens=batch_tokens, targets=targets):
            own = [rows[i] for i in batch]
            inputs = collate(own, pad_token_id=runner.tokenizer.pad_token_id, device=runner.device)
            labels = inputs.pop("labels")
            inputs["decoder_input_ids"] = decoder_inputs(runner.model, labels)
            kept = _at_labels(runner, inputs, labels, vocabulary)
            results.update(zip(batch, kept.sum(1).tolist(), strict=True))
    return [results[i] for i in range(len(rows))]


def _at_labels(runner: Runner, inputs: Mapping[str, Tensor], labels: Tensor, vocabulary: int) -> Tensor:
    """Return the log-probability of each of ``labels`` [B, T]; 0 where there is none."""
    positions = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    found = []
    with closing(logits_in_parts(runner.model, inputs, positions, labels.shape[1], vocabulary)) as parts:
        for first, logits in parts:
            own = labels[:, first : first + logits.shape[1]]
            shares = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
            kept = shares.gather(-1, own.clamp(min=0)[..., None])[..., 0]
            found.append(kept.masked_fill(own == IGNORED, 0))
    return torch.cat(found, 1)
