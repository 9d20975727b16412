"""A base model's tokenizer alone, for work that needs no weights."""

import os

from transformers import PreTrainedTokenizerBase

from petune.backbone.loading import quiet, read_config, tokenizer_of
from petune.backbone.refusals import explained
from petune.backbone.sources import resolve


def load_tokenizer(
    model: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, int | None]:
    """Return the tokenizer of a base model, and how many positions the model has (None: no limit known).

    Raises:
        BaseModelError: it cannot be had.
    """
    with quiet():
        source = resolve(model, revision=revision)
        with explained(source.name, hub=source.folder is None, revision=source.revision):
            config = read_config(source, trust_remote_code=trust_remote_code)
            tokenizer = tokenizer_of(source, revision=source.revision, trust_remote_code=trust_remote_code)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return tokenizer, limit if isinstance(limit, int) else None


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Write a tokenizer to files of ``folder``; several chat templates go into its configuration, not a sub-folder."""
    tokenizer.save_pretrained(folder, save_jinja_files=not isinstance(tokenizer.chat_template, dict))


def beginning_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that begins a text (BOS, or CLS in encoders), where there is one."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    assert found is None or isinstance(found, int)
    return found
