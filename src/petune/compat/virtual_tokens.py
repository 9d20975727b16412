"""Virtual tokens among the tokens of a batch that a script made: put in before the model runs, left out of its answer.

Where virtual tokens see the input, as in encoders, they stand in the rows themselves. A script knows nothing of it: it
gives rows without them, and expects an answer for each token it gave.

Shapes: B rows, T tokens as given, W tokens with virtual ones, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from petune.adapted_model import AdaptedModel
from petune.errors import ConfigError
from petune.sites.embeddings import vocabulary_size
from petune.sites.head import IGNORED

_PER_TOKEN = ("logits", "start_logits", "end_logits", "last_hidden_state")
_LENGTHS = ("max_length", "min_length")
_POSITIONS = ("start_positions", "end_positions")


@final
@dataclass(frozen=True)
class Written:
    """A batch with virtual tokens in it."""

    inputs: dict[str, Any]
    """What the model is given."""
    given: Tensor
    """Which [B, T] of the tokens are no padding."""
    real: Tensor
    """Which [B, W] of the tokens now are neither padding nor virtual."""
    ids: Tensor
    """The tokens [B, T] as given."""

    def leave_out(self, output: Any) -> Any:
        """Return the model's output with one entry for each token that was given; zeros stand at padding.

        Raises:
            ConfigError: the output is a tuple, which does not say what it holds.
        """
        if not isinstance(output, ModelOutput):
            raise ConfigError("return_dict=False is not supported with these virtual tokens; leave it out")
        for name in _PER_TOKEN:
            value = output.get(name)
            if value is not None and value.shape[:2] == self.real.shape:
                # A position is chosen by its logit: none at padding may win.
                filler = torch.finfo(value.dtype).min if name in ("start_logits", "end_logits") else 0
                whole = value.new_full((*self.given.shape, *value.shape[2:]), filler)
                whole[self.given] = value[self.real]
                output[name] = whole
        return output

    def lengthened(self) -> dict[str, Any]:
        """Return what the model is given, with limits on a text's whole length that count as if for the given rows."""
        added = self.real.shape[1] - self.ids.shape[1]
        lengths = {name: self.inputs[name] + added for name in _LENGTHS if self.inputs.get(name) is not None}
        return {**self.inputs, **lengths}

    def behind_given(self, output: Any) -> Any:
        """Return what a decoder generated, tokens [N, L] or an output with them, behind the rows as they were given.

        N is a multiple of B where several sequences are returned for a row.
        """
        sequences = output.sequences if isinstance(output, ModelOutput) else output
        given = self.ids.repeat_interleave(len(sequences) // len(self.ids), 0)
        whole = torch.cat([given, sequences[:, self.real.shape[1] :]], 1)
        if not isinstance(output, ModelOutput):
            return whole
        output["sequences"] = whole
        return output


def write(
    model: AdaptedModel, inputs: Mapping[str, Any], rows: Sequence[str | None] | None, *, answers_tokens: bool
) -> Written | None:
    """Return ``inputs`` with the virtual tokens that the adapters of ``rows`` want there; None where they want none.

    Args:
        model: the base with its adapters.
        inputs: what the script gives the model.
        rows: the adapter of each row, None for the bare base; by default the active ones.
        answers_tokens: whether labels belong to the tokens of the input.

    Raises:
        ConfigError: the inputs hold something else for each token than ids, mask, types and labels.
    """
    names = {name for name in rows if name is not None} if rows is not None else set(model.active)
    if all(model.adapter(name).placement is None for name in names):
        return None
    ids = inputs.get("input_ids")
    strange = [name for name in ("inputs_embeds", "position_ids") if inputs.get(name) is not None]
    if not isinstance(ids, Tensor) or strange:
        got = ", ".join(strange) or "no input_ids"
        raise ConfigError(f"virtual tokens are written among input_ids; got {got}: give input_ids, and leave that out")
    given = inputs.get("attention_mask")
    given = torch.ones_like(ids) if given is None else given
    batch = {"input_ids": ids, "attention_mask": given}
    labels = inputs.get("labels")
    if answers_tokens and labels is not None:
        batch["labels"] = labels
    written = model.insert_virtual_tokens(batch, rows)
    types = inputs.get("token_type_ids")
    if types is not None:
        moved = model.insert_virtual_tokens({**batch, "labels": types}, rows)["labels"]
        written["token_type_ids"] = moved.masked_fill(moved == IGNORED, 0)
    real = (written["input_ids"] < vocabulary_size(model.base.model)) & written["attention_mask"].bool()
    found = Written({**inputs, **written}, given.bool(), real, ids)
    for name in _POSITIONS:
        if inputs.get(name) is not None:
            found.inputs[name] = _moved(inputs[name], found)
    return found


def _moved(positions: Tensor, written: Written) -> Tensor:
    """Return where the tokens at ``positions`` [B] stand now; positions outside the row stay outside."""
    given, real = written.given, written.real
    inside = (positions >= 0) & (positions < given.shape[1])
    rank = given.cumsum(1).gather(1, positions.clamp(0, given.shape[1] - 1)[:, None])  # 1 for a row's first token
    places = (real.cumsum(1) < rank).sum(1)
    return torch.where(inside, places, real.shape[1])
