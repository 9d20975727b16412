"""How likely a model finds targets: what a kind of language model does to be measured."""

from collections.abc import Sequence
from typing import Protocol, final

from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.data.lengths import encode_within
from petune.evaluation.generate import generate
from petune.evaluation.loss import TokenLoss, token_loss
from petune.evaluation.options import GenerationOptions
from petune.evaluation.runner import Runner, context_length
from petune.evaluation.scoring import Choice, score_choices


class Likelihood(Protocol):
    """A kind of language model, as evaluation sees it."""

    def encode(self, runner: Runner, examples: ExampleSet) -> list[Encoded]:
        """Return rows with targets as token ids."""
        ...

    def loss(self, runner: Runner, rows: Sequence[Encoded], *, batch_tokens: int) -> TokenLoss:
        """Return the loss of the labels of ``rows``."""
        ...

    def choices(
        self, runner: Runner, examples: Sequence[Example], labels: Sequence[str], *, batch_tokens: int
    ) -> list[Choice]:
        """Score every label as the answer to every row's prompt."""
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

    def loss(self, runner: Runner, rows: Sequence[Encoded], *, batch_tokens: int) -> TokenLoss:
        """Return the loss of the labels of ``rows``."""
        return token_loss(runner, rows, batch_tokens=batch_tokens)

    def choices(
        self, runner: Runner, examples: Sequence[Example], labels: Sequence[str], *, batch_tokens: int
    ) -> list[Choice]:
        """Score every label after every row's prompt."""
        return score_choices(runner, examples, labels, batch_tokens=batch_tokens)

    def texts(
        self, runner: Runner, examples: Sequence[Example], options: GenerationOptions, *, first_row: int = 0
    ) -> list[str]:
        """Generate after every row's prompt."""
        return generated_texts(runner, examples, options, first_row=first_row)


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
