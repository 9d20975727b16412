"""Makes the work: the reviews as token ids, the order of the rows, the base in bfloat16, the adapter to start from."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base, load_base
from petune.checkpoint.folder import save_adapter
from petune.data.lengths import encode_within
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.data.reviews import movie_reviews, prompt_format
from petune.evaluation.runner import context_length
from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule
from race.bases import DEMO, SHAPES
from race.settings import Settings
from race.task import Task
from race.work import Row, Work


def main() -> None:
    """Fill the folder of the work."""
    task = Task.from_command_line()
    work, settings = task.work, task.work.settings
    write_texts(work, settings)
    write_model(work.model, settings)

    # Loaded anew, so that the adapter to start from names the folder that both sides train on.
    base = load_base(work.model, dtype="bfloat16", device=settings.device)
    write_rows(work, settings, base)
    adapter = create_adapter(
        base,
        "lora",
        seed=settings.seed,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=settings.target_modules,
    )
    save_adapter(AdaptedModel(base, [adapter]), work.start)
    task.answer(dict(work.describe()))


def write_model(folder: Path, settings: Settings) -> None:
    """Write the base in bfloat16: the demo model, or random weights of a shape, made where they are used."""
    demo = load_base("demo", dtype="bfloat16", device="cpu")
    model = demo.model
    if settings.base != DEMO:
        named = {f"{kind}_token_id": getattr(model.config, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        config = LlamaConfig(**SHAPES[settings.base], vocab_size=model.config.vocab_size, **named)
        torch.manual_seed(settings.seed)
        with torch.device(settings.device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    demo.tokenizer.save_pretrained(folder)
    name_rotation_twice(folder / "config.json")


def name_rotation_twice(config: Path) -> None:
    """Write the base of the rotary embedding where older releases of transformers look for it too.

    They do not find it where newer ones write it, and compute another model with a value of their own.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    rotation = settings.get("rope_parameters") or {}
    settings |= {"rope_theta": rotation["rope_theta"]} if "rope_theta" in rotation else {}
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_texts(work: Work, settings: Settings) -> None:
    """Write the rows as text: movie reviews, or the first ones of the files that the settings name."""
    if settings.data is None:
        reviews = movie_reviews(settings.rows, settings.test_rows)
        shutil.copyfile(reviews.train, work.train_text)
        shutil.copyfile(reviews.test, work.test_text)
        return
    write_first(Path(settings.data), work.train_text, settings.rows)
    if settings.test_data is not None:
        write_first(Path(settings.test_data), work.test_text, settings.test_rows)


def write_first(source: Path, target: Path, count: int) -> None:
    """Write the first ``count`` lines of ``source`` to ``target``.

    Raises:
        ValueError: it has fewer.
    """
    lines = source.read_text(encoding="utf-8").splitlines()[:count]
    if len(lines) < count:
        raise ValueError(f"{source} has {len(lines)} rows, the race needs {count}")
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def reading(settings: Settings) -> dict[str, str]:
    """Return petune's keys for how the rows are read: a template for reviews, what it finds out for other files."""
    return prompt_format() if settings.data is None else {}


def write_rows(work: Work, settings: Settings, base: Base) -> None:
    """Write the rows as token ids, and which of them make up each step."""
    rows = encode(work.train_text, settings, base)
    work.write_rows(rows)
    training = TrainingOptions(
        per_device_train_batch_size=settings.rows_per_step,
        max_steps=settings.planned_steps,
        seed=settings.seed,
    )
    schedule = Schedule([len(row.input_ids) for row in rows], training)
    work.write_plan([schedule.rows(step)[1] for step in range(settings.planned_steps)])


def encode(path: Path, settings: Settings, base: Base) -> list[Row]:
    """Return the rows of a file as token ids and labels."""
    options = DataOptions.model_validate({**reading(settings), "data": str(path)})
    examples = load_examples(options, base.tokenizer)
    rows = encode_within(examples, base.tokenizer, model_limit=context_length(base.model)).rows
    return [Row(row.input_ids, row.labels) for row in rows]


if __name__ == "__main__":
    main()
