import json
from collections.abc import Callable
from pathlib import Path

import pytest

from petune.backbone.base import Base, load_base
from petune.cli import main as command_line
from petune.data import reviews

RUN = ("demo", "--rows", "16", "--test-rows", "4")


@pytest.fixture(autouse=True)
def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tiny model and made-up reviews stand in for what the demo fetches."""

    def base(model: str, **options: object) -> Base:
        assert model == "demo"
        return load_base("tiny", dtype="float32")

    def movie_reviews(rows: int, test_rows: int) -> reviews.Reviews:
        paths = []
        for name, count in (("train", rows), ("test", test_rows)):
            lines = [{"text": f"{name} {i}", "label": "positive" if i % 2 else "negative"} for i in range(count)]
            paths.append(folder / f"{name}.jsonl")
            paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
        return reviews.Reviews(*paths)

    monkeypatch.setattr("petune.api.load_base", base)
    monkeypatch.setattr("petune.data.reviews.movie_reviews", movie_reviews)


def test_the_demo_shows_before_and_after(petune: Callable[..., str]) -> None:
    printed = petune(*RUN)
    for part in ("16 read, 16 kept", "before training\n", "after training\n", "test 0", "accuracy  ", "⟦ "):
        assert part in printed
    assert "The adapter lies in outputs/demo. Use it:\n  petune generate --adapter outputs/demo" in printed
    results = json.loads(Path("outputs/demo/demo_results.json").read_text(encoding="utf-8"))
    assert set(results["before"]) == set(results["after"])
    assert len(results["answers"]) == 4
    assert Path("outputs/demo/adapter_model.safetensors").is_file()


def test_the_command_holds_for_a_folder_with_blanks(petune: Callable[..., str]) -> None:
    assert "petune generate --adapter 'my demo' --max" in petune(*RUN, "--output-dir", "my demo")


def test_a_second_run_shows_the_first_and_changes_nothing(petune: Callable[..., str]) -> None:
    first = petune(*RUN)
    times = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("*")}
    again = petune(*RUN)
    assert again.startswith("The demo ran before; its results from outputs/demo/demo_results.json")
    assert again.splitlines()[-12:] == first.splitlines()[-12:]
    assert times == {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("*")}


def test_other_numbers_of_reviews_are_another_demo(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    petune(*RUN)
    assert command_line.run(["demo", "--rows", "32", "--test-rows", "4"]) == 2
    said = capsys.readouterr().err
    assert "outputs/demo holds a demo of 16 training and 4 held-out reviews, not of 32 and 4; give --overwrite" in said


def test_a_demo_that_was_stopped_goes_on(petune: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    petune(*RUN)
    folder = Path("outputs/demo")
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for name in ("demo_results.json", "petune.json", "adapter_model.safetensors"):
        (folder / name).unlink()
    assert "after training\n" in petune(*RUN)
    assert (folder / "adapter_model.safetensors").read_bytes() == whole
    (folder / "demo_results.json").unlink()
    assert command_line.run([*RUN, "--rows", "32"]) == 3
    assert "start anew with --overwrite" in capsys.readouterr().err


def test_overwriting_trains_again(petune: Callable[..., str]) -> None:
    petune(*RUN)
    before = Path("outputs/demo/demo_results.json").stat().st_mtime_ns
    assert "The demo ran before" not in petune(*RUN, "--overwrite")
    assert Path("outputs/demo/demo_results.json").stat().st_mtime_ns > before
