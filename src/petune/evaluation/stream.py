"""Text generated from one prompt, handed out as it is written."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteriaList
from transformers.generation import BaseStreamer

from petune.errors import ConfigError
from petune.evaluation.generate import (
    generating,
    generation_config,
    refuse_heads,
    room_for,
    stop_token_ids,
    token_choice,
)
from petune.evaluation.options import GenerationOptions
from petune.evaluation.prompts import Messages, chat_prompt, encode_prompts
from petune.evaluation.runner import Runner, longest_input, versions
from petune.evaluation.stopping import BROKEN, Cancelled, StopText, decode, first_stop
from petune.sites.routing import Routing

_KEPT_TOKENS = 36
"""How many tokens are decoded again with each new one; a multiple of the bytes that a character may have."""


def stream(
    runner: Runner,
    prompt: str | Messages,
    options: GenerationOptions | None = None,
    *,
    add_special_tokens: bool = True,
) -> Iterator[str]:
    """Yield the answer to ``prompt`` in pieces, as ``generate`` would give it whole.

    It is written in a thread of its own, however slowly it is read. Closing the iterator ends the generation. What else
    the model is to write or measure meanwhile, in whatever thread, waits until that is done.

    Args:
        runner: the model.
        prompt: a text, or the messages of a conversation for the tokenizer's chat template.
        options: how to generate; beams are not possible here.
        add_special_tokens: whether the tokenizer adds its special tokens to a text; never done with messages.

    Raises:
        ConfigError: messages without a chat template, a beam search, or an adapter of several prompts.
        DataError: the prompt is empty or longer than the model's context.
    """
    options = options or GenerationOptions()
    refuse_heads(runner)
    if versions(runner)[0] > 1:
        raise ConfigError("the adapter's prompts vote on an answer, which is known at the end only; use generate")
    if options.num_beams != 1:
        raise ConfigError(
            f"num_beams is {options.num_beams}, but a beam search knows its text only at the end; stream "
            "with num_beams=1"
        )
    is_text = isinstance(prompt, str)
    text = prompt if isinstance(prompt, str) else chat_prompt(runner.tokenizer, prompt)
    (ids,) = encode_prompts(runner, [text], [add_special_tokens and is_text], ["the prompt"])
    return _pieces(runner, ids, options)


@final
class TextAssembler:
    """Turns tokens into text as they come, holding back what later tokens may still change.

    Held back are characters whose bytes are not complete, and an ending that may be the start of a stop text. Tokens
    whose text was given long ago are forgotten, so that a long text takes no longer by the token than a short one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now."""
        self._ids.append(token)
        text = decode(self._tokenizer, self._ids)
        place = first_stop(text, self._stop)
        if place is not None:
            return self._give(text[:place])
        whole = text.rstrip(BROKEN)
        piece = self._give(whole[: len(whole) - self._started(whole)])
        if len(self._ids) >= 2 * _KEPT_TOKENS and whole == text:
            self._forget(text)
        return piece

    def finish(self) -> str:
        """Return the rest."""
        text = decode(self._tokenizer, self._ids)
        return self._give(text[: first_stop(text, self._stop)])

    def _started(self, text: str) -> int:
        """Return how many characters at the end of ``text`` may be the start of a stop text."""
        sizes = (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(sizes, default=0)

    def _forget(self, text: str) -> None:
        """Keep the last tokens alone, if their text is the end of ``text`` and what is not given is in it."""
        kept = self._ids[-_KEPT_TOKENS:]
        rest = decode(self._tokenizer, kept)
        given = self._given - (len(text) - len(rest))
        if rest.strip() and text.endswith(rest) and given >= 0:
            self._ids, self._given = kept, given

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given += len(piece)
        return piece


@final
class _TokenQueue(BaseStreamer):  # type: ignore[misc]
    """Passes generated tokens, then None or the error that ended them, to the reader's thread."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            self.items.put(int(value.item()))
        self._prompt_seen = True

    def end(self) -> None:
        """Do nothing: the thread says itself when it has left the model as it was."""


def _pieces(runner: Runner, ids: list[int], options: GenerationOptions) -> Iterator[str]:
    tokens = _TokenQueue()
    cancelled = threading.Event()
    thread = threading.Thread(target=_generate, args=(runner, ids, options, tokens, cancelled), daemon=True)
    assembler = TextAssembler(runner.tokenizer, options.stop)
    ends = stop_token_ids(runner, options.stop)
    thread.start()
    try:
        while (item := tokens.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if item not in ends and (piece := assembler.push(item)):
                yield piece
        if rest := assembler.finish():
            yield rest
    finally:
        cancelled.set()
        thread.join()


def _generate(
    runner: Runner,
    ids: list[int],
    options: GenerationOptions,
    tokens: _TokenQueue,
    cancelled: threading.Event,
) -> None:
    """Generate in a thread of its own; whatever ends it reaches the reader through ``tokens``."""
    apart = runner.model.config.is_encoder_decoder  # its decoder starts from a token of its own
    criteria = [
        Cancelled(cancelled),
        *([StopText(runner.tokenizer, options.stop, 1 if apart else len(ids))] if options.stop else []),
    ]
    room = room_for(options, longest_input(runner), len(ids), apart=apart)
    outcome: BaseException | None = None
    try:
        answers = Routing.of(runner.model).answers_from([len(ids)])
        with generating(runner, room), answers:
            input_ids = torch.tensor([ids], device=runner.device)
            runner.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=generation_config(runner, options, room),
                logits_processor=token_choice(options, [0]),
                stopping_criteria=StoppingCriteriaList(criteria),
                streamer=tokens,
            )
    except BaseException as error:
        outcome = error
    tokens.items.put(outcome)
