"""How likely a model finds targets: what a kind of language model does to be measured."""

from collections.abc import Sequence
from typing import Protocol, final

from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.data.lengths import encode_within
from petune.evaluation.loss import TokenLoss, token_loss
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
