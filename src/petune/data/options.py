"""What the user says about the data: where it is, how to read it, what is learned of it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

LayoutName = Literal[
    "auto",
    "messages",
    "conversations",
    "alpaca",
    "prompt-completion",
    "text-label",
    "tokens-tags",
    "question-answer",
    "text",
]


FORMAT_FIELDS = ("layout", "columns", "template", "target", "verbalizer", "chat")
"""The options that say how a row becomes text, whatever file it is in."""


class DataOptions(BaseModel):
    """Where the rows come from, how they become text, and which part of each is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    data: str | None = None
    """The rows: a .jsonl, .json, .csv, .tsv or .parquet file, or a hub data set id written
    `id`, `id:config`, `id@split` or `id:config@split` (split: train by default); or `demo` and `demo@test`, movie
    reviews that are fetched once. `#N` at the end keeps a seeded sample of N rows."""

    eval_data: str | None = None
    """Validation rows, named as `data` is (split of a hub id by default: validation, else test)."""

    validation_split: float | None = None
    """Rows of `data` set aside for validation: a share between 0 and 1, or a whole number of rows."""

    layout: LayoutName = "auto"
    """Layout of the rows; auto recognises it from the columns."""

    columns: dict[str, str] | None = None
    """Columns under other names than the layout's: role to column, such as `text: review`."""

    template: str | None = None
    """Jinja template of the prompt, with the columns as slots: `{{ title }}: {{ body }}`. A task that fills the answer
    in finds its place at `{{ mask }}`."""

    target: str | None = None
    """Jinja template of the text to learn after the prompt, such as ` {{ label }}`."""

    verbalizer: dict[str, str] | None = None
    """Words that stand for the labels in the text: label to word, such as `positive: great`; results name labels."""

    chat: Literal["auto", "on", "off"] = "auto"
    """The tokenizer's chat template: auto uses it for rows of turns only; on also wraps other rows as a
    user turn and an assistant turn; off never uses it."""

    train_on: Literal["completion", "all"] = "completion"
    """What carries labels: completion is the target, the assistant turns, or the whole of a `text` row;
    all is every token."""

    max_length: int | None = None
    """Longest row, in tokens (default: the model's own limit, at most 4096)."""

    overlong: Literal["error", "drop", "truncate"] = "error"
    """Rows longer than `max_length`: stop with an error, leave them out, or keep their first tokens."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        share = self.validation_split
        if share is not None and (share <= 0 or (share >= 1 and share != int(share))):
            raise ValueError(
                f"validation_split is {share:g}; give a share between 0 and 1 (0.1), or a whole number of rows (200)"
            )
        if share is not None and self.eval_data is not None:
            raise ValueError("validation_split and eval_data are both given; keep one of them")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length} tokens; the least that can be learned from is 2")
        return self
