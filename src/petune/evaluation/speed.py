"""How fast a model writes."""

import time
from collections.abc import Sequence

from transformers import GenerationConfig

from petune.data.encoding import IGNORED, Encoded
from petune.evaluation.generate import generating, prompt_batch
from petune.evaluation.prompts import encode_prompts
from petune.evaluation.runner import Runner, longest_input
from petune.sites.routing import Routing

_REPEATS = 3


def tokens_per_second(runner: Runner, prompts: Sequence[str], *, new_tokens: int = 16) -> float | None:
    """Return the tokens that a model writes in a second, all prompts in one batch; None where they do not fit.

    Each row gets exactly ``new_tokens`` tokens, so that models which end their answers early are no faster for it.
    Where an adapter writes a prompt in several versions, these make one answer, and its tokens count once. The best of
    three runs counts: what else the machine does slows some of them down.

    Args:
        runner: the model.
        prompts: what it goes on from.
        new_tokens: tokens of each answer.

    Raises:
        DataError: a prompt is empty or longer than the model's context.
    """
    ids = encode_prompts(runner, prompts, [True] * len(prompts), [f"prompt {i + 1}" for i in range(len(prompts))])
    rows = [Encoded(own, [IGNORED] * len(own), "") for own in ids]
    limit = longest_input(runner)
    if limit is not None and max(len(own) for own in ids) + new_tokens > limit:
        return None
    pad = runner.tokenizer.pad_token_id
    batch = prompt_batch(runner, rows)
    width = 1 if runner.model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    settings = GenerationConfig(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=pad, eos_token_id=None
    )
    best = 0.0
    with generating(runner, new_tokens), Routing.of(runner.model).answers_from([width] * len(rows)):
        for _ in range(_REPEATS):
            began = time.perf_counter()
            written = runner.model.generate(**batch, generation_config=settings)
            written.tolist()  # waits for the device
            best = max(best, len(prompts) * new_tokens / (time.perf_counter() - began))
    return best
