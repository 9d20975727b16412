"""Prompts read before their answers are written: in batches of like lengths, so that little padding is read.

Writing goes on with all rows at once, where padding costs next to nothing; reading costs by the token.
"""

from collections.abc import Sequence
from typing import Any

from transformers import DynamicCache

from petune.backbone.arguments import takes
from petune.backbone.growing_cache import growing_cache, joined_on_the_left
from petune.data.batching import collate, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.evaluation.runner import Runner
from petune.sites.embeddings import vocabulary_size
from petune.sites.routing import Routing


def prompt_cache(runner: Runner, prompts: Sequence[list[int]]) -> DynamicCache | None:
    """Return the keys and values of all tokens of ``prompts`` but the last of each, padded on the left.

    The cache is empty where the prompts are so alike that they are best read at once. None says that the model or its
    device wants a cache of its own. Call it where the rows are routed, without gradients.

    Args:
        runner: the model.
        prompts: token ids of each row.
    """
    model = runner.model
    cache = growing_cache(model) if model.device.type == "cpu" else None
    if cache is None:
        return None
    route = Routing.of(model).route
    batches = split_step(range(len(prompts)), [len(ids) for ids in prompts], max_rows=None, max_tokens=None)
    end_in_text = max(ids[-1] for ids in prompts) < vocabulary_size(model)  # an adapter's tokens are read all at once
    if len(batches) > 1 and min(map(len, prompts)) > 1 and end_in_text and route.num_rows in (0, len(prompts)):
        joined_on_the_left(cache, [(rows, _read(runner, [prompts[i] for i in rows], rows)) for rows in batches])
    return cache


def _read(runner: Runner, prompts: Sequence[list[int]], rows: Sequence[int]) -> DynamicCache:
    """Return the cache of some rows' prompts without their last tokens."""
    model, routing = runner.model, Routing.of(runner.model)
    encoded = [Encoded(ids[:-1], [IGNORED] * (len(ids) - 1), "") for ids in prompts]
    batch = collate(encoded, pad_token_id=runner.tokenizer.pad_token_id, side="left", device=runner.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    more: dict[str, Any] = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    if takes(model, "position_ids"):
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    cache = growing_cache(model)
    assert cache is not None, "the model had one a moment ago"
    # The last token, which is not read here, is the first that predicts the answer.
    with routing.use(routing.route.of_rows(rows)), routing.answers_from([ids.shape[1] + 1] * len(rows)):
        model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
    return cache
