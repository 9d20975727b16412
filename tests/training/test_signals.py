"""Real signals to a real process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.errors import Interrupted
from petune.training import one_pass
from petune.training.run import train
from petune.training.signals import StopSignals, interrupted_by_sigterm

PROGRAM = """
import json, sys
from petune.errors import PetuneError
from petune.errors import Interrupted
from petune.training import run
from petune.training.run import train
try:
    train(json.loads(sys.argv[1]))
except PetuneError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def wait_for_step(output: Path, step: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        metrics = output / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()}")


def test_a_terminated_process_saves_and_its_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    base, output = tiny_base(num_hidden_layers=1), tmp_path / "run"
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    options = keys(model=str(tmp_path / "base"), dtype="float32", max_steps=150, lora_dropout=0.1, save_steps=500)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(output, 5, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    stopped = int(errors.partition("stopped by a signal at step ")[2].split()[0])
    assert 5 <= stopped < 150
    assert (output / f"checkpoint-{stopped}" / "checkpoint.json").exists()
    assert not list(output.glob(".*"))

    train(options, resume=True)
    train({**options, "output_dir": str(tmp_path / "whole")})
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:  # noqa: PT012 - only the last one may raise
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_the_adapter_is_saved_says_how_to_go_on(
    tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    options = keys(max_steps=2)
    output = options["output_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(one_pass, "save_run", interrupted)
        with pytest.raises(
            Interrupted, match=rf"checkpoint-2\. Go on with: petune train --resume --output-dir {output}"
        ):
            train(options, base=tiny_base())
    assert train(options, base=tiny_base(), resume=True).steps == 2
    assert (Path(output) / "adapter_model.safetensors").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(one_pass.OnePass, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train({**options, "output_dir": f"{output}-2"}, base=tiny_base())


def test_outside_the_main_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with StopSignals() as signals:
            seen.extend([signals.received, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, before]


def test_a_sigterm_outside_of_training_is_an_error_of_ours() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as caught, interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == former


def test_outside_the_main_thread_a_sigterm_stays_what_it_was() -> None:
    former, seen = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with interrupted_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [former]
