"""The command of the race: who runs what, in which order, and where the results go."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from race.contests import CONTESTS
from race.entries import OURS, Entry, last_line, verdicts
from race.environments import PreparationError, find_python, prepare
from race.kept import kept
from race.machine import load_average, machine_facts
from race.options import parse, settings_of
from race.peers import PEERS
from race.plot import draw
from race.processes import WorkerError, run_worker
from race.speed import figures
from race.standings import Standing, render, standings_of
from race.work import Work

NOT_INSTALLED = "not installed: prepare it with --prepare"
NO_CARD = "not run: it needs a CUDA device (--device cuda)"
CACHED = "not run: petune compiles nothing where it keeps the trunk's output"
NO_COMPILER = "not run: there is no C++ compiler"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the race; return 0 where petune computes what it should and meets every bar, 1 where not."""
    options = parse(arguments)
    if options.prepare:
        return prepare_all(options.peers)
    settings = settings_of(options)
    pythons: dict[str, Path | None] = {OURS: None, **{peer: environment(peer, options) for peer in options.peers}}
    results: dict[str, Any] = {"quick": options.quick, "to_loss": options.to_loss, "manners": list(options.manners)}
    results |= {"compile": options.compile, "same_rows": options.same_rows}
    results |= {"settings": settings.to_dict(), "machine": machine_facts()}
    with tempfile.TemporaryDirectory(prefix="petune-race-") as folder:
        work = Work(Path(folder))
        work.write_settings(settings)
        tell("Making the work: model, token ids, order of the rows.")
        results["work"] = run_worker(work, "prepare", settings.threads)
        results["environments"] = {peer: versions_of(peer, pythons[peer], work) for peer in options.peers}
        results["contests"] = kept(options.output, "contests", results)
        for name in options.methods:
            if name in results["contests"]:
                tell(f"{CONTESTS[name].title}: raced before, see {options.output}.")
                continue
            results["contests"][name] = raced(name, work, pythons, options)
            write(options.output, results)
    rows = write(options.output, results)
    print(f"\n{options.output.with_suffix('.txt').read_text(encoding='utf-8')}")
    print(f"{options.output}, {options.output.with_suffix('.txt')} and {options.output.with_suffix('.png')} hold it.")
    return 1 if missed(results, rows) else 0


def raced(name: str, work: Work, pythons: dict[str, Path | None], options: argparse.Namespace) -> dict[str, Any]:
    """Check every entry of a contest, then time them in turn; return all that was measured."""
    before = load_average()
    found = checked(name, work, pythons, options)
    for repeat in range(work.settings.repeats):
        time_all(name, found, work, pythons, repeat, same_rows=options.same_rows)
    if options.to_loss is not None:
        train_to_loss(name, found, work, pythons, options.to_loss, same_rows=options.same_rows)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {**found, "date": date, "load_average_before": before, "load_average_after": load_average()}


def environment(peer: str, options: argparse.Namespace) -> Path | None:
    """Return the interpreter of a peer: one that was named, or that of its prepared environment."""
    named = dict(entry.split("=", 1) for entry in options.environment)
    return Path(named[peer]) if peer in named else find_python(peer, PEERS[peer])


def versions_of(peer: str, python: Path | None, work: Work) -> dict[str, str] | str:
    """Return the releases that a peer's environment holds."""
    if python is None:
        return NOT_INSTALLED
    packages = ["torch", *PEERS[peer].packages]
    return dict(run_worker(work, "versions", work.settings.threads, python=python, packages=packages))


def checked(name: str, whole: Work, pythons: dict[str, Path | None], options: argparse.Namespace) -> dict[str, Any]:
    """Make the work of a contest, measure its floor, and see who computes what it asks for."""
    contest, work = CONTESTS[name], contest_work(name, whole)
    tell(f"{contest.title}: start, floor, and the first steps of every side in float32.")
    threads = whole.settings.threads
    own = [Entry(OURS), *([Entry(OURS, "compiled")] if options.compile else [])]
    others = [Entry(peer, manner) for peer in options.peers for manner in options.manners]
    entries = [*own, *(entry for entry in others if entry.manner in PEERS[entry.side].manners)]
    absent = {entry.name: reason for entry in entries if (reason := why_absent(name, entry, pythons, options.device))}
    found: dict[str, Any] = {
        "title": contest.title,
        "work": run_worker(work, "contest_start", threads, contest=name),
        "floor": run_worker(work, "floor", threads, contest=name),
        "entries": [entry.name for entry in entries],
        "absent": absent,
        "timings": [],
        "seconds_to_loss": {},
        "validation": {},
    }
    judged = verdicts(work, name, [entry for entry in entries if entry.name not in absent], pythons)
    for verdict in judged.values():
        tell(f"  {verdict.name}: {'computes the same' if verdict.passed else verdict.reason}")
    found["verdicts"] = {key: verdict.to_dict() for key, verdict in judged.items()}
    return found


def contest_work(name: str, whole: Work) -> Work:
    """Return the work of a contest; its folder lies in that of the whole race."""
    work = Work(whole.folder / name)
    if not work.folder.exists():
        work.folder.mkdir()
        work.write_settings(replace(CONTESTS[name].settings(whole.settings)))
    return work


def why_absent(contest: str, entry: Entry, pythons: dict[str, Path | None], device: str = "cpu") -> str | None:
    """Return why an entry cannot be run; None if it can."""
    compiled = entry.manner == "compiled"
    if entry.side == OURS:
        return CACHED if compiled and CONTESTS[contest].cached_from_epoch_two else no_compiler(compiled=compiled)
    if contest not in PEERS[entry.side].contests:
        return "does not have this method"
    if PEERS[entry.side].needs_card and device == "cpu":
        return NO_CARD
    return NOT_INSTALLED if pythons[entry.side] is None else no_compiler(compiled=compiled)


def no_compiler(*, compiled: bool) -> str | None:
    """Return why nothing can be compiled, where it is to be; None if it can."""
    return NO_COMPILER if compiled and shutil.which("g++") is None else None


def runnable(found: dict[str, Any]) -> list[Entry]:
    """Return the entries that ran the first steps; those that compute something else are timed and say so."""
    failed = {key for key, verdict in found["verdicts"].items() if (verdict["reason"] or "").startswith("failed")}
    return [Entry(*key.split(" ")) for key in found["entries"] if key not in failed and key not in found["absent"]]


def time_all(
    name: str, found: dict[str, Any], whole: Work, pythons: dict[str, Path | None], repeat: int, *, same_rows: bool
) -> None:
    """Time every entry of a contest once, in turn."""
    work = contest_work(name, whole)
    warm_up = work.settings.warm_up_steps
    request = {"steps": warm_up + work.settings.timed_steps, "dtype": work.settings.dtype, "log_every_step": False}
    for entry in runnable(found):
        load = load_average()
        try:
            report = entry.run(work, name, pythons[entry.side], planned=same_rows or entry.grouped, **request)
        except WorkerError as error:
            found["absent"][entry.name] = f"failed: {last_line(error)}"
            continue
        timing = {"entry": entry.name, "repeat": repeat, "load_average": load, **figures(report, warm_up)}
        timing |= {"peak": report["peak"], "above": report["peak_of_steps"] - report["resident_before_steps"]}
        found["timings"].append(timing)
        tell(f"  {name}, {entry.title}, repeat {repeat + 1}: {timing['tokens_per_second']:.0f} tokens/s")


def train_to_loss(
    name: str,
    found: dict[str, Any],
    whole: Work,
    pythons: dict[str, Path | None],
    target: float,
    *,
    same_rows: bool,
) -> None:
    """Train every entry until the held-out loss is ``target``, for one pass at most."""
    work = contest_work(name, whole)
    request = {
        "steps": work.settings.epoch_steps,
        "dtype": work.settings.dtype,
        "log_every_step": False,
        "to_loss": target,
    }
    for entry in runnable(found):
        try:
            report = entry.run(work, name, pythons[entry.side], planned=same_rows or entry.grouped, **request)
        except WorkerError as error:
            found["absent"][entry.name] = f"failed: {last_line(error)}"
            continue
        found["validation"][entry.name] = report["validation"]
        seconds = report["validation"]["seconds"]
        found["seconds_to_loss"][entry.name] = seconds
        reached = "not reached" if seconds is None else f"{seconds:.0f} s"
        tell(f"  {name}, {entry.title}: held-out loss {target:g} {reached}")


def prepare_all(peers: Sequence[str]) -> int:
    """Build the environments of the peers; return 1 where one cannot be."""
    failed = 0
    for peer in peers:
        try:
            prepare(peer, PEERS[peer], tell)
        except PreparationError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def missed(results: dict[str, Any], rows: Sequence[Standing]) -> bool:
    """Say whether petune computes something else than a contest asks for, or falls short of a bar."""
    wrong = any(not found["verdicts"][OURS]["passed"] for found in results["contests"].values())
    return wrong or any(row.met is False for row in rows)


def write(path: Path, results: dict[str, Any]) -> list[Standing]:
    """Write the JSON, the table and the picture; return the table's rows."""
    judged = not results["quick"] and results["settings"]["dtype"] == "bfloat16"  # which bars are of
    rows = [row for name, found in results["contests"].items() for row in standings_of(name, found, judged=judged)]
    results["rows"] = [row.to_dict() for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = f"{describe(results)}\n\n{render(results, rows)}\n"
    path.with_suffix(".txt").write_text(text, encoding="utf-8")
    draw(path.with_suffix(".png"), results, rows)
    return rows


def describe(results: dict[str, Any]) -> str:
    """Return what was raced, and on what."""
    machine, work = results["machine"], results["work"]
    loads = [
        found[key] for found in results["contests"].values() for key in ("load_average_before", "load_average_after")
    ]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load {min(loads)} to {max(loads)}",
        f"{work['rows']:,} rows, {work['tokens']:,} tokens ({work['label_tokens']:,} learned),"
        f" file of token ids {work['tokens_sha256'][:16]}",
        f"petune's environment: {_listed(machine['versions'])}",
    ]
    settings, floors = results["settings"], (found["floor"] for found in results["contests"].values())
    card = next((floor["card"] for floor in floors if floor.get("card")), None)
    base = f"{settings['base']} in {settings['dtype']}"
    lines.append(f"base: {base}, {settings['rows_per_step']} rows a step, on {card or 'the CPU'}")
    for peer, held in results["environments"].items():
        lines.append(f"{PEERS[peer].title}: {held if isinstance(held, str) else _listed(held)}")
    return "\n".join(lines)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def tell(text: str) -> None:
    """Say what is going on."""
    print(text, flush=True)
