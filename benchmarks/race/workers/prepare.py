"""Makes the work: the reviews as token ids, the order of the rows, the base in bfloat16, the adapter to start from."""

import shutil

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import load_base
from petune.checkpoint.folder import save_adapter
from petune.data.lengths import encode_within
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.data.reviews import movie_reviews, prompt_format
from petune.evaluation.runner import context_length
from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule
from race.task import Task
from race.work import Row


def main() -> None:
    """Fill the folder of the work."""
    task = Task.from_command_line()
    work, settings = task.work, task.work.settings
    reviews = movie_reviews(settings.rows, settings.test_rows)
    shutil.copyfile(reviews.train, work.train_text)
    shutil.copyfile(reviews.test, work.test_text)

    demo = load_base("demo", dtype="bfloat16", device="cpu")
    demo.model.save_pretrained(work.model)
    demo.tokenizer.save_pretrained(work.model)

    # Loaded anew, so that the adapter to start from names the folder that both sides train on.
    base = load_base(work.model, dtype="bfloat16", device="cpu")
    options = DataOptions.model_validate({**prompt_format(), "data": str(work.train_text)})
    examples = load_examples(options, base.tokenizer)
    rows = encode_within(examples, base.tokenizer, model_limit=context_length(base.model)).rows
    work.write_rows([Row(row.input_ids, row.labels) for row in rows])

    training = TrainingOptions(
        per_device_train_batch_size=settings.rows_per_step,
        max_steps=settings.planned_steps,
        seed=settings.seed,
    )
    schedule = Schedule([len(row.input_ids) for row in rows], training)
    work.write_plan([schedule.rows(step)[1] for step in range(settings.planned_steps)])

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


if __name__ == "__main__":
    main()
