"""New tokens: a tokenizer and the tables of its model made larger, with every old row as it was.

A table has rows to spare where its size was rounded up; these are used first. A new row starts as the mean of the rows
of the pieces that the tokenizer cut the token's text into before.

Shapes: V rows of a table, d its width.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from petune.backbone.quantization import unpack
from petune.errors import BaseModelError, ConfigError


def read_tokens(tokens: str | Sequence[str]) -> tuple[str, ...]:
    """Return tokens given as a list, or those in a text file, one a line.

    Raises:
        ConfigError: the file cannot be read, or a token is empty or named twice.
    """
    if isinstance(tokens, str):
        try:
            text = Path(tokens).expanduser().read_text(encoding="utf-8-sig")
            tokens = [line for line in text.split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"new_tokens: '{tokens}' cannot be read ({error}); give a text file with one token a line, or a list"
            ) from error
    seen: set[str] = set()
    for token in tokens:
        if not token.strip() or token in seen:
            problem = "is named twice" if token.strip() else "is empty"
            raise ConfigError(f"new_tokens: {token!r} {problem}; give each token once")
        seen.add(token)
    return tuple(tokens)


@torch.no_grad()
def extend(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Add ``tokens`` to the tokenizer, and a row for each to the model's embeddings and its head.

    Raises:
        ConfigError: the tokenizer has one of them already, or adapters are plugged into a table.
        BaseModelError: the model has tables that cannot grow.
    """
    known = [token for token in tokens if token in tokenizer.get_vocab()]
    if known:
        raise ConfigError(f"new_tokens: the tokenizer has '{known[0]}' already; leave it out")
    tables = _tables(model)
    unpack(model, tables)  # packed weights cannot change
    weights = [table.get_parameter("weight") for table in tables]
    sharing = [m for m in model.modules() if any(m._parameters.get("weight") is weight for weight in weights)]
    if any(module._forward_hooks for module in sharing):
        raise ConfigError(
            "new tokens cannot be added while adapters are plugged into the embeddings or the head; detach them first,"
            " or load the adapter with the new tokens before the others"
        )
    pieces = [_pieces(tokenizer, token) for token in tokens]
    rows = tables[0].get_parameter("weight").shape[0]
    needed = max(rows, len(tokenizer) + len(tokens))
    if needed > rows:
        _refuse_other_tables(model, tables, rows)
        _grow(model, tables, needed)
    tokenizer.add_tokens(list(tokens))
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    assert isinstance(ids, list)
    assert max(ids) < needed
    for weight in {id(w): w for w in (table.get_parameter("weight") for table in tables)}.values():
        old = weight[:rows].mean(0)
        for token_id, own in zip(ids, pieces, strict=True):
            weight[token_id] = weight[own].to(torch.float32).mean(0) if own else old


def _pieces(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    return [piece for piece in ids if piece != tokenizer.unk_token_id]


def _tables(model: PreTrainedModel) -> list[nn.Module]:
    """Return the embeddings of the input and the head over the vocabulary, where there is one."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [embeddings] if head is None else [embeddings, head]
    sizes = {table.get_parameter("weight").shape[0] for table in tables}
    if not isinstance(embeddings, nn.Embedding) or not isinstance(head, nn.Linear | None) or len(sizes) != 1:
        raise BaseModelError(
            f"{type(model).__name__} has no plain embeddings and head of one size, so no tokens can be added to it"
        )
    return tables


def _refuse_other_tables(model: PreTrainedModel, tables: Iterable[nn.Module], rows: int) -> None:
    own = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    other = next((name for name, p in model.named_parameters() if id(p) not in own and rows in p.shape), None)
    if other is not None:
        raise BaseModelError(
            f"{type(model).__name__} also has an entry for each token in '{other}', so no tokens can be added to it"
        )


def _grow(model: PreTrainedModel, tables: Sequence[nn.Module], rows: int) -> None:
    """Make the tables ``rows`` long in place; modules that share a weight go on sharing it."""
    former = next(iter(tables)).get_parameter("weight").shape[0]
    grown: dict[int, nn.Parameter] = {}
    for table in tables:
        for parameter in table.parameters(recurse=False):
            if id(parameter) not in grown:
                missing = parameter.new_zeros(rows - parameter.shape[0], *parameter.shape[1:])
                grown[id(parameter)] = nn.Parameter(torch.cat([parameter.detach(), missing]), requires_grad=False)
    for module in model.modules():
        for name, found in module._parameters.items():
            if found is not None and id(found) in grown:
                module._parameters[name] = grown[id(found)]
                if isinstance(module, nn.Embedding):
                    module.num_embeddings = rows
                elif isinstance(module, nn.Linear):
                    module.out_features = rows
        for name, buffer in module._buffers.items():  # BART adds a constant to each token's logit
            if buffer is not None and buffer.is_floating_point() and buffer.shape[-1:] == (former,):
                module._buffers[name] = torch.cat([buffer, buffer.new_zeros(*buffer.shape[:-1], rows - former)], -1)
    model.config.get_text_config().vocab_size = rows
