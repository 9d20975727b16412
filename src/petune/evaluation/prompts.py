"""Prompts as token ids, checked against the model's context."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from petune.data.chat import RENDER_ERRORS
from petune.data.examples import Example, Segment
from petune.data.insertion import with_virtual_tokens
from petune.data.tokens import tokenise
from petune.errors import ConfigError, DataError
from petune.evaluation.runner import Runner, longest_input

Messages = Sequence[Mapping[str, str]]
"""Turns of a conversation, each with ``role`` and ``content``."""

_SHOWN = 10


def encode_prompts(
    runner: Runner, prompts: Sequence[str], add_special_tokens: Sequence[bool], names: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of each prompt, without an EOS that the tokenizer would end a whole text with.

    An encoder is given that EOS: it reads a prompt as the whole text it was trained to read. Where an adapter wants
    rows in several versions, those of a prompt come one behind the other.

    Args:
        runner: the model and its tokenizer.
        prompts: texts.
        add_special_tokens: for each, whether the tokenizer adds its special tokens (BOS).
        names: what each prompt is called in an error.

    Raises:
        DataError: a prompt has no token, or leaves no room for an answer in the model's context.
    """
    encoded = _encode(runner, prompts, add_special_tokens)
    empty = [name for name, ids in zip(names, encoded, strict=True) if not ids]
    if empty:
        raise DataError(f"no text to go on from in {listed(empty)}; give a prompt of at least one character")
    limit = longest_input(runner)
    most = limit if limit is None or runner.model.config.is_encoder_decoder else limit - 1
    long = [
        f"{n} ({len(ids):,})" for n, ids in zip(names, encoded, strict=True) if most is not None and len(ids) > most
    ]
    if long:
        raise DataError(
            f"{len(long):,} of {len(encoded):,} prompts fill the model's context of {limit:,} tokens and "
            f"leave no room for an answer: {listed(long)}; shorten them, or use a model with a longer context"
        )
    for insertion in runner.insertions:
        encoded = [version for ids in encoded for version in insertion.versions(ids)]
    return encoded


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Return the text that asks for the next assistant turn, as the tokenizer's chat template writes it.

    Raises:
        ConfigError: the tokenizer has no chat template.
        DataError: there are no messages, or the template refuses them.
    """
    if tokenizer.chat_template is None:
        raise ConfigError(
            "the tokenizer has no chat template, so messages cannot be written as text; give a plain "
            "prompt, or use an instruction-tuned model"
        )
    if not messages:
        raise DataError("the conversation has no messages; give at least one user turn")
    try:
        turns = [dict(turn) for turn in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except RENDER_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"the chat template refuses the conversation: {reason}; change its turns, each with 'role' and 'content'"
        ) from error
    assert isinstance(text, str), "one conversation makes one text"
    return text


def listed(names: Sequence[str]) -> str:
    """Return the first ten names and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _encode(runner: Runner, prompts: Sequence[str], add_special_tokens: Sequence[bool]) -> list[list[int]]:
    examples = [
        Example("", (Segment(prompt, learned=False),), prompt, None, None, {}, add_special_tokens=special)
        for prompt, special in zip(prompts, add_special_tokens, strict=True)
    ]
    found = []
    whole = runner.model.config.is_encoder_decoder
    for tokens in tokenise([with_virtual_tokens(e, runner.insertions) for e in examples], runner.tokenizer):
        end = len(tokens.ids)
        while end and not whole and tokens.added[end - 1] and tokens.ids[end - 1] == runner.tokenizer.eos_token_id:
            end -= 1
        found.append(tokens.ids[:end])
    return found
