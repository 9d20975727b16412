"""Makes the work of a generation: the base, prompts, and an adapter as one that has learned something."""

import json

import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import load_base
from petune.checkpoint.folder import save_adapter
from petune.data.reviews import movie_reviews
from race.contests import CONTESTS
from race.task import Task
from race.workers.prepare import name_rotation_twice


def main() -> None:
    """Write base, prompts and the adapter of ``contest``."""
    task = Task.from_command_line()
    work, rows = task.work, int(task.arguments["rows"])
    if not work.model.exists():
        demo = load_base("demo", dtype="bfloat16", device="cpu")
        demo.tokenizer.eos_token = task.arguments["end"]
        demo.model.generation_config.eos_token_id = demo.tokenizer.convert_tokens_to_ids(task.arguments["end"])
        demo.model.save_pretrained(work.model)
        demo.tokenizer.save_pretrained(work.model)
        name_rotation_twice(work.model / "config.json")
        lines = movie_reviews(rows, 1).train.read_text(encoding="utf-8").splitlines()[:rows]
        work.train_text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    contest = CONTESTS[task.arguments["contest"]]
    base = load_base(work.model, dtype="float32", device="cpu")
    adapter = create_adapter(base, contest.method, seed=work.settings.seed, **contest.options)
    generator = torch.Generator().manual_seed(work.settings.seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            size = 0.1 * parameter.std() if parameter.any() else 0.01
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    save_adapter(AdaptedModel(base, [adapter]), work.folder / task.arguments["contest"])
    task.answer({"prompts": [json.loads(line)["text"] for line in work.train_text.read_text().splitlines()]})


if __name__ == "__main__":
    main()
