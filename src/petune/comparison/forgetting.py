"""What a model can still do beside its task: the loss on neutral text, and its answers to everyday questions."""

import statistics
from dataclasses import dataclass
from typing import final

from petune.comparison import neutral
from petune.comparison.record import Forgetting
from petune.data.encoding import Encoded, encode
from petune.data.examples import Example, ExampleSet, Segment
from petune.evaluation.generate import generate
from petune.evaluation.loss import token_loss
from petune.evaluation.options import GenerationOptions
from petune.evaluation.prompts import chat_prompt
from petune.evaluation.runner import Runner, context_length
from petune.evaluation.words import mostly_cjk

_LONGEST_TEXT = 256
_ANSWER = 32
_OPENING = 12
"""Characters of a neutral text that are given; the rest is to be predicted."""


@final
@dataclass(frozen=True, slots=True)
class Skills:
    """What a model does with neutral texts and everyday questions."""

    loss: float
    """Nats per token of neutral text."""

    answer_tokens: float
    """Mean length of an answer."""

    other_language_share: float
    """Share of answers in another language than their question."""

    def after(self, later: "Skills") -> Forgetting:
        """Return what became of these skills."""
        return Forgetting(
            neutral_loss_before=self.loss,
            neutral_loss_after=later.loss,
            answer_tokens_before=self.answer_tokens,
            answer_tokens_after=later.answer_tokens,
            other_language_share_before=self.other_language_share,
            other_language_share_after=later.other_language_share,
        )


def skills(runner: Runner) -> Skills:
    """Measure a causal language model.

    Raises:
        DataError: the model has too few positions for a question.
    """
    questions = (*neutral.QUESTIONS, *neutral.QUESTIONS_ZH)
    template = runner.tokenizer.chat_template is not None
    prompts = [
        chat_prompt(runner.tokenizer, [{"role": "user", "content": question}])
        if template
        else f"Question: {question}\nAnswer:"
        for question in questions
    ]
    options = GenerationOptions(max_new_tokens=_ANSWER)
    answers = generate(runner, prompts, options, add_special_tokens=not template)
    strange = [
        mostly_cjk([answer.text]) != mostly_cjk([question])
        for question, answer in zip(questions, answers, strict=True)
        if any(character.isalpha() for character in answer.text)
    ]
    return Skills(
        loss=token_loss(runner, _rows(runner)).mean,
        answer_tokens=statistics.fmean(answer.num_tokens for answer in answers),
        other_language_share=sum(strange) / len(questions),
    )


def _rows(runner: Runner) -> list[Encoded]:
    """Return the neutral texts as token ids, of one length whatever an adapter adds to them."""
    limit = context_length(runner.model)
    longest = _LONGEST_TEXT if limit is None else min(_LONGEST_TEXT, limit // 2)
    added = sum(insertion.placement.num_virtual_tokens for insertion in runner.insertions)
    examples = [
        Example(
            f"neutral text {number + 1}",
            (Segment(text[:_OPENING], learned=False), Segment(text[_OPENING:], learned=True)),
            text[:_OPENING],
            text[_OPENING:],
            None,
            {},
            add_special_tokens=True,
        )
        for number, text in enumerate((*neutral.TEXTS, *neutral.TEXTS_ZH))
    ]
    return encode(
        ExampleSet(examples, source="the neutral texts", layout="text"),
        runner.tokenizer,
        max_length=longest + added,
        overlong="truncate",
        eos=False,
        insertions=runner.insertions,
    ).rows
