"""Text generated from prompts, many at once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from petune.data.batching import collate
from petune.data.encoding import IGNORED, Encoded
from petune.errors import ConfigError
from petune.evaluation.options import GenerationOptions
from petune.evaluation.penalty import repetition_penalty
from petune.evaluation.prompt_cache import prompt_cache
from petune.evaluation.prompts import encode_prompts
from petune.evaluation.runner import Runner, end_token_ids, evaluating, longest_input, versions
from petune.evaluation.sampling import row_sampling, samples_beams
from petune.evaluation.stopping import StopText, decode, first_stop
from petune.kernels.constant_weights import constant_weights
from petune.kernels.reordered_linears import reordered_linears
from petune.sites.routing import Routing

FinishReason = Literal["stop", "length"]

_REORDERING_PAYS = 16
"""From how many new tokens on the weights are laid out anew, which takes about as long as is saved in ten passes."""

_OF_THE_MODEL = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("cache_implementation", "cache_config", "use_cache"),
)
"""What a model's generation config says of its tokens and caches; the rest is how somebody wanted texts written."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after one prompt."""

    text: str
    """Without special tokens, cut before a stop text."""
    num_tokens: int
    """Tokens generated, the one that ended the text not counted."""
    finish_reason: FinishReason
    """``stop`` where the model or a stop text ended it, ``length`` where ``max_new_tokens`` did."""


def generate(
    runner: Runner,
    prompts: Sequence[str],
    options: GenerationOptions | None = None,
    *,
    add_special_tokens: bool | Sequence[bool] = True,
    names: Sequence[str] | None = None,
    first_row: int = 0,
) -> list[Generation]:
    """Generate text after each prompt; results come in the order of the prompts.

    Prompts of like lengths share a batch. A row's text does not depend on its batch, up to
    rounding: what is sampled depends on the seed and on the number of the row. Only sampled beams depend on the
    batch, and are the same again for the same prompts and options. The global random state is left as it was.

    Where an adapter writes a prompt in several versions, the text that most of them get is the answer; of equally many
    the first.

    Args:
        runner: the model.
        prompts: texts as the model is to see them (see :func:`petune.evaluation.prompts.chat_prompt`).
        options: how to generate; greedy, 128 tokens by default.
        add_special_tokens: whether the tokenizer adds its special tokens: false where a chat template wrote
            them. One value for all prompts, or one each.
        names: what prompts are called in errors; ``prompt 1``, ``prompt 2`` ... by default.
        first_row: number of the first prompt, where these are some of many.

    Raises:
        DataError: a prompt is empty or longer than the model's context.
    """
    options = options or GenerationOptions()
    special = [add_special_tokens] * len(prompts) if isinstance(add_special_tokens, bool) else add_special_tokens
    names = names if names is not None else [f"prompt {i + 1}" for i in range(len(prompts))]
    refuse_heads(runner)
    encoded = encode_prompts(runner, prompts, special, names)
    results: dict[int, Generation] = {}
    number, _ = versions(runner)
    apart = runner.model.config.is_encoder_decoder
    drawn = _seeded(options.seed, runner.device) if samples_beams(options) else nullcontext()
    with generating(runner, options.max_new_tokens), drawn:
        for rows, allowance in _batches(encoded, options, longest_input(runner), apart=apart):
            numbers = [first_row * number + i for i in rows]
            generations = _generate_batch(runner, [encoded[i] for i in rows], numbers, allowance, options)
            results.update(zip(rows, generations, strict=True))
    return [_majority([results[i + n] for n in range(number)]) for i in range(0, len(encoded), number)]


def _majority(answers: Sequence[Generation]) -> Generation:
    """Return the first of the answers whose text most of them have."""
    votes = Counter(answer.text for answer in answers)
    return max(answers, key=lambda answer: votes[answer.text])


def refuse_heads(runner: Runner) -> None:
    """Check that a model can write text.

    Raises:
        ConfigError: it has a head for something else.
    """
    if not runner.model.can_generate():
        raise ConfigError(
            f"a {type(runner.model).__name__} writes no text; use petune predict, or load the base for language"
            " modelling"
        )


def room_for(options: GenerationOptions, context: int | None, prompt: int, *, apart: bool) -> int:
    """Return how many tokens may follow a prompt of so many; ``apart``: the decoder does not read the prompt itself."""
    return options.max_new_tokens if context is None else min(options.max_new_tokens, context - (not apart) * prompt)


def generation_config(runner: Runner, options: GenerationOptions, max_new_tokens: int) -> GenerationConfig:
    """Return transformers' form of ``options``; the model's own have no say (see :func:`generating`)."""
    sampling = samples_beams(options)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling,
        temperature=options.temperature if sampling else 1.0,
        top_p=options.top_p if sampling else 1.0,
        top_k=options.top_k if sampling else 50,  # transformers' own default; another one without sampling warns
        num_beams=options.num_beams,
        num_return_sequences=1,
        return_dict_in_generate=False,
        typical_p=1.0,
        epsilon_cutoff=0.0,
        eta_cutoff=0.0,
        repetition_penalty=1.0,  # ours goes with it, which leaves virtual tokens out
        eos_token_id=stop_token_ids(runner, options.stop) or None,
        pad_token_id=runner.tokenizer.pad_token_id,
    )


def stop_token_ids(runner: Runner, stop: Sequence[str]) -> list[int]:
    """Return the ids that end a text: the model's, and stop texts that are special tokens themselves."""
    tokenizer = runner.tokenizer
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return sorted({*end_token_ids(runner), *(special[text] for text in stop if text in special)})


@contextmanager
def generating(runner: Runner, new_tokens: int) -> Iterator[None]:
    """Run the block as :func:`evaluating` does, with the weights laid out for many passes where there will be many.

    Of the model's own generation config only what its tokens and caches are is left: transformers would take from it
    what nobody asked for, such as a least length, forbidden words or a token to end with.
    """
    reordered = reordered_linears(runner.model) if new_tokens >= _REORDERING_PAYS else nullcontext()
    with evaluating(runner), constant_weights(), reordered:
        own = runner.model.generation_config
        kept = {name: getattr(own, name, None) for name in _OF_THE_MODEL}
        runner.model.generation_config = GenerationConfig(
            **{n: value for n, value in kept.items() if value is not None}
        )
        try:
            yield
        finally:
            runner.model.generation_config = own


def token_choice(options: GenerationOptions, rows: Sequence[int]) -> LogitsProcessorList:
    """Return what acts on the scores of the rows with these numbers before the likeliest token is taken."""
    return LogitsProcessorList([*repetition_penalty(options.repetition_penalty), *row_sampling(options, rows)])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch for the block and give the random state back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _batches(
    encoded: Sequence[Sequence[int]], options: GenerationOptions, context: int | None, *, apart: bool
) -> Iterator[tuple[list[int], int]]:
    """Yield the rows of each batch, longest first, and how many tokens each row may add.

    Rows that the context leaves fewer than ``max_new_tokens`` share a batch only with rows left as many, and
    under a repetition penalty (which would count padding as text) only rows of one length do.
    """
    room = [room_for(options, context, len(ids), apart=apart) for ids in encoded]
    budget = options.batch_tokens // options.num_beams
    batch: list[int] = []
    for row in sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i)):
        if batch:
            longest = len(encoded[batch[0]])
            fits = (len(batch) + 1) * (longest + room[batch[0]]) <= budget
            alike = options.repetition_penalty == 1 or len(encoded[row]) == longest
            if not (fits and alike and room[row] == room[batch[0]]):
                yield batch, room[batch[0]]
                batch = []
        batch.append(row)
    if batch:
        yield batch, room[batch[0]]


def prompt_batch(runner: Runner, rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return prompts as one batch to go on from.

    A decoder writes behind its prompts, which are padded on the left. An encoder reads them as in training, padded on
    the right: some (BART's, Marian's) count positions from the first column, padding or not.
    """
    side: Literal["left", "right"] = "right" if runner.model.config.is_encoder_decoder else "left"
    batch = collate(rows, pad_token_id=runner.tokenizer.pad_token_id, side=side, device=runner.device)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _generate_batch(
    runner: Runner,
    prompts: Sequence[list[int]],
    numbers: Sequence[int],
    max_new_tokens: int,
    options: GenerationOptions,
) -> list[Generation]:
    rows = [Encoded(ids, [IGNORED] * len(ids), "") for ids in prompts]
    batch = prompt_batch(runner, rows)
    # The decoder of an encoder-decoder starts from a token of its own.
    width = 1 if runner.model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    criteria = [StopText(runner.tokenizer, options.stop, width)] if options.stop else []
    cache = prompt_cache(runner, prompts) if options.num_beams == 1 else None
    with Routing.of(runner.model).answers_from([width] * len(rows)):
        sequences = runner.model.generate(
            **batch,
            generation_config=generation_config(runner, options, max_new_tokens),
            logits_processor=token_choice(options, numbers),
            stopping_criteria=StoppingCriteriaList(criteria),
            **({} if cache is None else {"past_key_values": cache}),
        )
    ends = stop_token_ids(runner, options.stop)
    return [_finished(runner, row, ends, options.stop) for row in sequences[:, width:].tolist()]


def _finished(runner: Runner, ids: list[int], ends: Sequence[int], stop: Sequence[str]) -> Generation:
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    ids = ids[:end]
    text = decode(runner.tokenizer, ids)
    place = first_stop(text, stop)
    if place is not None:
        # A row that ended before its batch was filled up with padding.
        while ids[-1] == runner.tokenizer.pad_token_id:
            ids.pop()
    return Generation(text[:place], len(ids), "length" if end is None and place is None else "stop")
