import io

import pytest
from rich.console import Console

from petune.cli.measuring import Measuring


@pytest.mark.parametrize(("terminal", "plain"), [(False, False), (True, True)])
def test_a_log_has_a_line_now_and_then(terminal: bool, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("petune.cli.measuring.time.monotonic", lambda: now)
    written = io.StringIO()
    measuring = Measuring(Console(file=written, force_terminal=terminal, no_color=True, width=200), plain=plain)
    for number, now in enumerate((0.0, 4.0, 9.0, 11.0, 12.0), start=1):  # noqa: B007 - the clock reads it
        measuring.tell(f"m{number}", "some/base", number, 5)
    measuring.close()
    lines = written.getvalue().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["m1 on base, 1 of 5", "m4 on base, 4 of 5"]
    assert lines[0].startswith("measuring what a token costs here")


def test_a_terminal_has_one_line_that_is_taken_back() -> None:
    written = io.StringIO()
    measuring = Measuring(Console(file=written, force_terminal=True, width=200))
    measuring.tell("lora", "some/base", 1, 2)
    measuring.tell("ia3", "some/base", 2, 2)
    measuring.close()
    measuring.close()  # twice is once
    assert "ia3 on base, 2 of 2" in written.getvalue()
    assert written.getvalue().endswith("\x1b[2K")
