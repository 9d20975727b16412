"""What every method's settings share; free of torch, so that recipes are checked before anything heavy loads."""

from pydantic import BaseModel, ConfigDict, ValidationError

from petune.errors import nearest


class MethodConfig(BaseModel):
    """Base of every method's settings: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's findings in one line, with the nearest name for each unknown key."""
    names = list(model.model_fields)
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
