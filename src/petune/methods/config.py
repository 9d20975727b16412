"""What every method's settings share; free of torch, so that recipes are checked before anything heavy loads."""

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from petune.errors import nearest


class MethodConfig(BaseModel):
    """Base of every method's settings: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    modules_to_save: tuple[str, ...] = ()
    """Modules learned whole besides, as copies: a task head, lm_head, embed_tokens (paths, or the ends of paths)."""

    new_tokens: str | tuple[str, ...] = ()
    """Tokens to add to the tokenizer, their rows of embeddings and head learned besides; a list, or a file of lines."""

    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] = ()
    """Ids of tokens whose embeddings are learned besides; ids by table (embed_tokens, lm_head) for each its own."""


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of ``model``: its own first, then those it inherits."""
    bases = [base for base in model.__bases__ if issubclass(base, BaseModel)]
    inherited = [name for base in bases for name in fields_of(base)]
    own = [name for name in model.model_fields if name not in inherited]
    return {name: model.model_fields[name] for name in (*own, *inherited)}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's findings in one line, with the nearest name for each unknown key."""
    names = list(fields_of(model))
    findings = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        said = item["msg"].removeprefix("Value error, ")
        if not key:  # a rule over several settings names them itself
            findings.append(said)
        elif item["type"] == "extra_forbidden":
            findings.append(f"unknown key '{key}'.{nearest(key, names)} The keys are {', '.join(names)}")
        else:
            findings.append(f"'{key}' is {item.get('input')!r}: {said}")
    return "; ".join(findings)
