"""Makes the work of one contest: its rows and their order, and the adapter that every side starts from."""

from dataclasses import replace

from safetensors.torch import save_file

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import load_base
from petune.checkpoint.folder import save_adapter
from race.contests import CONTESTS
from race.task import Task
from race.work import Work
from race.workers.prepare import encode, write_first, write_rows


def main() -> None:
    """Fill the folder of the work of ``contest``, which lies in that of the whole race."""
    task = Task.from_command_line()
    work, contest = task.work, CONTESTS[task.arguments["contest"]]
    whole = Work(work.folder.parent)
    method = methods.get(contest.method)
    configured = method.configure(contest.options)
    settings = replace(work.settings, learning_rate=method.rate(configured))
    work.write_settings(settings)
    work.model.symlink_to(whole.model)
    write_first(whole.train_text, work.train_text, settings.rows)

    # Where a start is computed by the base, that of the float32 runs is wanted: these are what is compared.
    base = load_base(work.model, dtype="float32", device=settings.device)
    write_rows(work, settings, base)
    if whole.test_text.is_file():
        work.write_test_rows(encode(whole.test_text, settings, base))
    adapter = create_adapter(base, contest.method, seed=settings.seed, **contest.options)
    if not contest.trains_base:
        save_file({name: tensor.contiguous() for name, tensor in adapter.tensors().items()}, work.start_tensors)
        save_adapter(AdaptedModel(base, [adapter]), work.start)
    task.answer(dict(work.describe()))


if __name__ == "__main__":
    main()
