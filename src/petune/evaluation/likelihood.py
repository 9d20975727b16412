"""How likely a model finds targets: what a kind of language model does to be measured."""

from collections.abc import Sequence
from typing import Protocol, final

from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.data.lengths import encode_within
from petune.evaluation.generate import generate
from petune.evaluation.head import Reading, read_log_probabilities
from petune.evaluation.loss import TokenLoss, loss_reading
from petune.evaluation.options import GenerationOptions
from petune.evaluation.runner import Runner, context_length
from petune.evaluation.scoring import Choice, choices_reading


class Likelihood(Protocol):
    """A kind of language model, as evaluation sees it."""

    def encode(self, runner: Runner, examples: ExampleSet) -> list[Encoded]:
        """Return rows with targets as token ids."""
        ...

    def measure(
        self,
        runner: Runner,
        rows: Sequence[Encoded] | None,
        examples: Sequence[Example],
        labels: Sequence[str],
        *,
        batch_tokens: int,
    ) -> tuple[TokenLoss | None, list[Choice]]:
        """Return the loss of ``rows``, and the scores of every label as the answer to each prompt, from shared passes.

        Args:
            runner: the model.
            rows: token ids with labels; None for no loss.
            examples: rows with the prompts.
            labels: label words; none for no scores.
            batch_tokens: most tokens of a batch, padding included.

        Raises:
            ConfigError: the labels cannot be compared.
            DataError: a row does not fit the model, or none has a label token.
        """
        ...

    def texts(
        self, runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
    ) -> list[str]:
        """Return the answer to each row in the model's own words, without white space around it.

        ``first_row`` is the number of the first row, where these are some of many.
        """
        ...


@final
class CausalLikelihood:
    """Prompt and target as one text, read left to right."""

    def encode(self, runner: Runner, examples: ExampleSet) -> list[Encoded]:
        """Return rows as token ids."""
        return encode_within(
            examples,
            runner.tokenizer,
            model_limit=context_length(runner.model),
            virtual_tokens=runner.virtual_tokens,
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
        """Return the loss of ``rows``, and the scores of every label behind each prompt."""
        loss = None if rows is None else loss_reading(rows)
        choices = choices_reading(runner, examples, labels) if labels else None
        return read_both(runner, loss, choices, batch_tokens=batch_tokens)

    def texts(
        self, runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
    ) -> list[str]:
        """Generate after every row's prompt."""
        return generated_texts(runner, examples, options, first_row=first_row)


def read_both(
    runner: Runner, loss: Reading[TokenLoss] | None, choices: Reading[list[Choice]] | None, *, batch_tokens: int
) -> tuple[TokenLoss | None, list[Choice]]:
    """Return the results of two readings: None and no choices for one that is left out."""
    readings = [reading for reading in (loss, choices) if reading is not None]
    found = iter(read_log_probabilities(runner, readings, batch_tokens=batch_tokens) if readings else ())
    return None if loss is None else next(found), [] if choices is None else next(found)


def generated_texts(
    runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
) -> list[str]:
    """Return the text generated for each row's prompt, without white space around it."""
    generations = generate(
        runner,
        [example.prompt for example in examples],
        options,
        add_special_tokens=[example.add_special_tokens for example in examples],
        names=[example.origin for example in examples],
        first_row=first_row,
    )
    return [generation.text.strip() for generation in generations]
