"""`petune demo`: a small real model learns a real task, start to end."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petune.cli.command import new_app
from petune.cli.reporting import print_data_reports, print_metrics, say
from petune.errors import OutputFolderError

if TYPE_CHECKING:
    from petune.adapted_model import AdaptedModel

app = new_app()

RESULTS_FILE = "demo_results.json"
SHOWN_ANSWERS = 4


@app.command(help="Fine-tune SmolLM2-135M-Instruct on 2,000 movie reviews and show what it learned.")
def demo(
    output_dir: Annotated[
        str, typer.Option("--output-dir", help="Folder for the adapter.", metavar="FOLDER")
    ] = "outputs/demo",
    rows: Annotated[int, typer.Option("--rows", help="Training reviews.", min=16, metavar="INTEGER")] = 2000,
    test_rows: Annotated[int, typer.Option("--test-rows", help="Held-out reviews.", min=4, metavar="INTEGER")] = 500,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train again, replacing the last demo.")] = False,
) -> None:
    """Fine-tune a small real model on real reviews, start to end."""
    folder = Path(output_dir)
    done = folder / RESULTS_FILE
    if done.exists() and not overwrite:
        results = json.loads(done.read_text(encoding="utf-8"))
        if (results["rows"], results["test_rows"]) != (rows, test_rows):
            raise OutputFolderError(
                f"{folder} holds a demo of {results['rows']:,} training and {results['test_rows']:,} held-out reviews,"
                f" not of {rows:,} and {test_rows:,}; give --overwrite to train again, or another --output-dir"
            )
        say(f"The demo ran before; its results from {done} (petune demo --overwrite trains again):\n")
        _show(results, folder)
        return
    from petune.checkpoint.durable import write_text

    results = _run(folder, rows, test_rows, overwrite=overwrite)
    write_text(done, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    say()
    _show(results, folder)


def _run(folder: Path, rows: int, test_rows: int, *, overwrite: bool) -> dict[str, Any]:
    from petune import api, methods
    from petune.cli.progress import ProgressBar
    from petune.data.reviews import movie_reviews, prompt_format
    from petune.training import output
    from petune.training.recipe import Recipe
    from petune.training.run import train

    began = time.perf_counter()
    resume = not overwrite and any(folder.glob("checkpoint-*"))  # a demo that was stopped goes on
    output.prepare(folder, resume=resume, overwrite=overwrite)
    say("1. The base model (SmolLM2-135M-Instruct) and the movie reviews; fetched once.")
    model = api.load(base="demo")
    reviews = movie_reviews(rows, test_rows)
    test = [json.loads(line) for line in reviews.test.read_text(encoding="utf-8").splitlines()]
    shown = [row["text"] for row in test[:SHOWN_ANSWERS]]
    say(f"2. Before training: accuracy on {len(test):,} held-out reviews.")
    before = api.evaluate(model, reviews.test, **prompt_format())
    answers_before = _answers(model, shown)
    recipe = Recipe.parse(
        {
            **prompt_format(),
            "model": "demo",
            "data": str(reviews.train),
            "num_train_epochs": 1,
            "output_dir": str(folder),
        }
    )
    say(f"3. Training: {methods.get(recipe.run.method).title}.\n")
    result = train(
        recipe,
        base=model.base,
        resume=resume,
        overwrite=overwrite,
        listeners=[ProgressBar()],
        on_data=print_data_reports,
    )
    say("\n4. After training: the same reviews again.")
    after = api.evaluate(result.model, reviews.test)
    return {
        "rows": rows,
        "test_rows": test_rows,
        "before": dict(before.metrics),
        "after": dict(after.metrics),
        "answers": [
            {"review": row["text"], "label": row["label"], "before": b, "after": a}
            for row, b, a in zip(test, answers_before, _answers(result.model, shown), strict=False)
        ],
        "data_report": result.train_report.render(),
        "steps": result.steps,
        "training_seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory,
        "total_seconds": round(time.perf_counter() - began, 1),
    }


def _answers(model: "AdaptedModel", reviews: list[str]) -> list[str]:
    from petune import api
    from petune.data.reviews import prompt_for

    prompts = [prompt_for(review) for review in reviews]
    return [answer.text.strip() for answer in api.generate(model, prompts, max_new_tokens=12)]


def _show(results: dict[str, Any], folder: Path) -> None:
    say("The data")
    say(results["data_report"])
    say("\nWhat the model answers to 'Review: ... Sentiment:'")
    for answer in results["answers"]:
        say(f"  {answer['review']}")
        say(f"    label:  {answer['label']}")
        say(f"    before: {' '.join(answer['before'].split())}")
        say(f"    after:  {' '.join(answer['after'].split())}")
    for when in ("before", "after"):
        say(f"\nHeld-out reviews, {when} training")
        print_metrics(results[when])
    say(
        f"\n{results['steps']} steps in {results['training_seconds']:.0f} s,"
        f" peak memory {results['peak_memory_bytes'] / 2**20:,.0f} MiB, all in all {results['total_seconds']:.0f} s"
    )
    say(f"\nThe adapter lies in {folder}. Use it:")
    say(f"  petune generate --adapter {shlex.quote(str(folder))} --max-new-tokens 4 \\")
    say("    --prompt $'Review: A film to see twice.\\nSentiment:'")
