"""How long, how fast and how carefully to train. Names and defaults follow transformers' TrainingArguments."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from petune.errors import ConfigError
from petune.evaluation.metrics import higher_is_better, measured_name, require_direction
from petune.training.byte_sizes import read_bytes
from petune.training.paths import FolderName

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrainingOptions(BaseModel):
    """Everything about the optimisation that is not the method's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of AdamW (default: the method's own)."""

    num_train_epochs: float = Field(default=3.0, gt=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; given, it overrides num_train_epochs."""

    per_device_train_batch_size: int = Field(default=16, ge=1)
    """Rows of one optimiser step, before accumulation."""

    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches whose gradients add up to one optimiser step."""

    tokens_per_step: int | None = Field(default=None, ge=1)
    """Token budget of one optimiser step; given, it replaces the number of rows."""

    max_tokens_per_batch: int = Field(default=8192, ge=1)
    """Most tokens, padding counted, that go through the model at once; larger steps are split (same gradients)."""

    group_by_length: bool = True
    """Put rows of like lengths into the same step, so that little is padded."""

    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up."""

    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of all steps over which the rate rises from zero."""

    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps over which the rate rises from zero; given, it overrides warmup_ratio."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""

    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the first moment."""

    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the second moment."""

    adam_epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's epsilon."""

    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns clipping off."""

    module_learning_rates: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Rates of their own for parameters whose path matches a shell pattern, such as `*.lora_B: 4e-3`."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    memory_budget: str | None = None
    """Most memory, such as 4GiB, that training may hold: by the process on CPU, on the device on CUDA. Activations are
    recomputed and batches made smaller only as far as that takes; gradients are the same."""

    torch_compile: bool = False
    """Compile the base's blocks with torch.compile: waits of minutes at first, then shorter steps of the same losses.
    Needs a C++ compiler on CPU, triton on CUDA. Then tokens that rows begin with are not shared."""

    share_prefix: bool = True
    """Compute tokens that all rows of a batch begin with (a template, an instruction) once; losses are the same."""

    trunk_cache: str = "off"
    """Most disk space, such as 2GiB, for what the blocks below the adapter make of each row; computed once. Or off."""

    keep_trunk_cache: bool = False
    """Keep it after the run, for other runs on the same rows and base (default: removed)."""

    trunk_cache_dir: FolderName | None = None
    """Folder of the trunk cache (default: in petune's own cache folder)."""

    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of the adapter's start, the order of the rows and dropout."""

    eval_steps: int | None = Field(default=None, ge=1)
    """Steps between evaluations on the validation rows (default: once an epoch)."""

    metrics: tuple[str, ...] = ()
    """Metrics measured at each evaluation besides the loss, such as accuracy."""

    metric_for_best_model: str = "loss"
    """Metric that decides which checkpoint is best and when to stop early."""

    greater_is_better: bool | None = None
    """Whether more of metric_for_best_model, one of your own, is better (default: of all but loss and perplexity)."""

    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without improvement."""

    load_best_model_at_end: bool = True
    """Where there are validation rows, keep the adapter of the best evaluation rather than the last."""

    logging_steps: int = Field(default=10, ge=1)
    """Steps between lines of metrics.jsonl and of the trackers."""

    save_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints (default: once an epoch); each evaluation writes one besides."""

    save_total_limit: int = Field(default=2, ge=1)
    """Checkpoints kept; the best one is kept besides."""

    report_to: tuple[Tracker, ...] = ()
    """Trackers to report to."""

    run_name: str | None = None
    """Name of the run in the trackers (default: the name of the output folder)."""

    @property
    def best_metric(self) -> str:
        """The name under which ``metric_for_best_model`` is measured: a user's own goes by its function's or file's."""
        return measured_name(self.metric_for_best_model)

    @property
    def more_is_better(self) -> bool:
        """Whether more of what decides is better."""
        return higher_is_better(self.best_metric.rpartition("/")[2], self.greater_is_better)

    def measured(self) -> tuple[str, ...]:
        """Return the names of what an evaluation can measure."""
        return ("loss", "perplexity", *self.metrics)

    @model_validator(mode="after")
    def _trunk_cache_has_a_size(self) -> Self:
        if self.trunk_cache != "off":
            try:
                read_bytes(self.trunk_cache)
            except ValueError as error:
                raise ValueError(f"trunk_cache: {error}, or off") from error
        elif self.keep_trunk_cache:
            raise ValueError("keep_trunk_cache keeps what trunk_cache allows; give trunk_cache a size, such as 2GiB")
        elif self.trunk_cache_dir is not None:
            raise ValueError("trunk_cache_dir is where trunk_cache lies; give trunk_cache a size, such as 2GiB")
        return self

    @model_validator(mode="after")
    def _memory_budget_has_a_size(self) -> Self:
        if self.memory_budget is None:
            return self
        try:
            read_bytes(self.memory_budget)
        except ValueError as error:
            raise ValueError(f"memory_budget: {error}") from error
        if self.gradient_checkpointing:
            raise ValueError(
                "memory_budget recomputes as much as it has to, gradient_checkpointing everything; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _compiled_blocks_run_whole(self) -> Self:
        for name, is_given in (
            ("gradient_checkpointing", self.gradient_checkpointing),
            ("memory_budget", self.memory_budget is not None),
            ("trunk_cache", self.trunk_cache != "off"),
        ):
            if self.torch_compile and is_given:
                raise ValueError(f"torch_compile runs each block whole, and {name} does not; give one of them")
        return self

    @model_validator(mode="after")
    def _direction_is_that_of_the_metric(self) -> Self:
        try:
            require_direction(self.best_metric.rpartition("/")[2], self.greater_is_better)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        known = self.measured()
        # What a function of the user's own measures is known once it has run.
        if self.metric_for_best_model not in known and not any(":" in name for name in known):
            raise ValueError(
                f"metric_for_best_model is '{self.metric_for_best_model}', which is not measured; measured are"
                f" {', '.join(known)}: add it to metrics"
            )
        return self
