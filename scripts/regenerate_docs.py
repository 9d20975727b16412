"""Rewrites the parts of docs/ that the code knows best; with --check it only says which are out of date.

Run it in petune's environment: .venv/bin/python scripts/regenerate_docs.py [--check]

Generated are docs/cli.md, docs/recipe.schema.json, and in other pages whatever stands between a line
``<!-- generated: NAME -->`` and a line ``<!-- end -->``.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from transformers import AutoConfig

from petune import errors, methods
from petune.adapter import build_adapter
from petune.backbone.heads import auto_class, choose_task, possible_tasks
from petune.backbone.kind import kind_of
from petune.backbone.loading import quiet
from petune.backbone.structure import Structure
from petune.cli.main import COMMANDS
from petune.cli.reporting import settings_text
from petune.comparison.recipe import ALL, SHARED_KEYS, CompareOptions, MethodEntry
from petune.data.layouts import LAYOUTS
from petune.data.options import DataOptions
from petune.evaluation.metrics import METRICS
from petune.methods.config import fields_of
from petune.training.options import TrainingOptions
from petune.training.recipe import SEVERAL, RunOptions
from petune.training.task_entries import TaskEntry

BASES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "glm", "phi", "gpt2", "gpt_neox", "opt", "bloom", "falcon",
    "bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "modernbert", "deberta-v2",
    "t5", "bart",
)  # fmt: skip
"""The architectures of the table of bases, as transformers calls them: decoders, encoders, encoder-decoders."""

DOCS = Path(__file__).parents[1] / "docs"
_SECTION = re.compile(
    r"(?P<start><!-- generated: (?P<name>[\w.-]+) -->\n)(?P<body>.*?)(?P<end><!-- end -->\n)", re.DOTALL
)


def pages() -> dict[Path, str]:
    """Return what every page with generated parts should hold."""
    wanted = {
        DOCS / "cli.md": cli_page(),
        DOCS / "recipe.schema.json": schema(),
        DOCS / "compare.schema.json": compare_schema(),
    }
    sections = all_sections()
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if path not in wanted and "<!-- generated:" in text:
            wanted[path] = _SECTION.sub(lambda match: _fill(match, sections), text)
    return wanted


def _fill(match: re.Match[str], sections: Mapping[str, Callable[[], str]]) -> str:
    return f"{match['start']}\n{sections[match['name']]().strip()}\n\n{match['end']}"


def all_sections() -> dict[str, Callable[[], str]]:
    """Return the makers of the parts that stand inside pages, by name."""
    sections: dict[str, Callable[[], str]] = {
        "data-options": lambda: settings_table(DataOptions),
        "training-options": lambda: settings_table(TrainingOptions),
        "run-options": lambda: settings_table(
            RunOptions, leave_out={*DataOptions.model_fields, *TrainingOptions.model_fields}
        ),
        "task-entries": lambda: settings_table(TaskEntry, leave_out=set(DataOptions.model_fields)),
        "compare-options": lambda: settings_table(CompareOptions, leave_out=set(DataOptions.model_fields)),
        "method-entry": lambda: settings_table(MethodEntry),
        "evidence": evidence_table,
        "layouts": layouts_table,
        "metrics": metrics_table,
        "bases": bases_table,
        "tasks": tasks_table,
        "exit-codes": exit_codes_table,
    }
    for name in methods.names():
        sections[f"method.{name}"] = lambda name=name: method_settings(name)  # type: ignore[misc]
    return sections


def evidence_table() -> str:
    """Return the table of what was published of the methods."""
    lines = ["| method | beside full fine-tuning | finding | about |", "| --- | --- | --- | --- |"]
    for name in methods.names():
        method = methods.get(name)
        for finding in method.evidence:
            paper = finding.paper or method.paper
            least, too_large = finding.parameters
            about = [
                ", ".join(finding.tasks) or "every task",
                *([f"from {least:,.0f} parameters"] if least else []),
                *([f"below {too_large:,.0f} parameters"] if too_large != math.inf else []),
                *([f"below {finding.rows_below:,} rows"] if finding.rows_below != math.inf else []),
            ]
            source = f" [{paper.authors} {paper.year}]({paper.url})" if paper is not None else ""
            lines.append(f"| `{name}` | {finding.standing} | {finding.says}{source} | {'; '.join(about)} |")
    return "\n".join(lines)


def method_settings(name: str) -> str:
    """Return the default learning rate and the table of settings of a method."""
    method = methods.get(name)
    if not method.trains:
        return f"Nothing is trained: a run chooses among candidates.\n\n{settings_table(method.config_class)}"
    others = ", ".join(f"`{settings_text(variation)}`" for variation in method.variations)
    tried = f" `petune compare` also tries {others}." if others else ""
    return (
        f"Learning rate unless you give one: `{method.learning_rate:g}`. Sites: {', '.join(method.sites)}.{tried}\n\n"
        f"{settings_table(method.config_class)}"
    )


def settings_table(model: type[BaseModel], leave_out: Sequence[str] | set[str] = ()) -> str:
    """Return the fields of a model with their defaults and descriptions."""
    rows = [
        (f"`{name}`", _default(field), field.description or "")
        for name, field in fields_of(model).items()
        if name not in leave_out
    ]
    return table(("key", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), "", {}):
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def layouts_table() -> str:
    """Return the layouts with the columns that give them away."""
    rows = [
        (
            layout.name,
            ", ".join(f"`{column}`" for column in (*layout.prompt_columns, *layout.target_columns)),
            ", ".join(f"`{column}`" for column in layout.optional_columns),
            "the turns" if layout.template is None else f"`{layout.template}`".replace("\n", "⏎"),
            "the assistant's turns"
            if layout.template is None
            else f"`{layout.target}`"
            if layout.target
            else "all of it",
        )
        for layout in LAYOUTS.values()
    ]
    return table(("layout", "columns", "optional", "prompt", "learned"), rows)


def metrics_table() -> str:
    """Return the metrics with what they are."""
    rows = [(f"`{name}`", metric.needs, metric.doc) for name, metric in sorted(METRICS.items())]
    return table(("metric", "computed from", "meaning"), rows)


def tasks_table() -> str:
    """Return the architectures with the tasks they can be loaded for, the default one first."""
    rows = []
    for base in BASES:
        config = AutoConfig.for_model(base)
        first = choose_task(config, None, base)
        tasks = (first, *(task for task in possible_tasks(config) if task != first))
        rows.append((base, kind_of(config), ", ".join(f"`{task}`" for task in tasks)))
    return table(("base", "kind", "tasks"), rows)


def bases_table() -> str:
    """Return which methods work on which bases, with the reasons why others do not."""
    reasons: dict[str, int] = {}
    rows = []
    for base in BASES:
        cells = []
        for name in methods.names():
            reason = refusal(base, name)
            cells.append("works" if reason is None else f"no [{reasons.setdefault(reason, len(reasons) + 1)}]")
        rows.append((base, *cells))
    notes = "".join(f"{number}. {reason}\n" for reason, number in reasons.items())
    return f"{table(('base', *(f'`{name}`' for name in methods.names())), rows)}\n{notes}"


def refusal(base: str, method: str) -> str | None:
    """Return why a method cannot be used on an architecture; None where it can."""
    config = AutoConfig.for_model(base, num_hidden_layers=1)
    with quiet(), torch.device("meta"):
        model = auto_class(choose_task(config, None, base)).from_config(config)
    try:
        build_adapter(method, {}, model, Structure(model))
    except errors.PetuneError as error:
        return str(error)
    return None


def exit_codes_table() -> str:
    """Return the exit codes with the errors that have them."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PetuneError)]
    rows = [("0", "", "done"), ("1", "any other", "an error of petune itself; please report it")]
    rows += [
        (str(kind.exit_code), f"`{kind.__name__}`", (kind.__doc__ or "").splitlines()[0])
        for kind in kinds
        if kind not in (errors.PetuneError, errors.Interrupted)
    ]
    interrupted = (errors.Interrupted.__doc__ or "").splitlines()[0]
    rows += [("130", "`Interrupted`", f"Ctrl-C: {interrupted}"), ("143", "`Interrupted`", f"SIGTERM: {interrupted}")]
    return table(("code", "error", "meaning"), rows)


def cli_page() -> str:
    """Return the page of all commands with all their flags."""
    parts = [
        "# Command line\n",
        "<!-- Written by scripts/regenerate_docs.py; change the code, not this page. -->\n",
        "Every command prints its own help with `--help`. `--debug`, anywhere, shows tracebacks.\n",
        table(
            ("command", "what it does"),
            [(f"[`petune {name}`](#petune-{name})", text) for name, text in COMMANDS.items()],
        ),
    ]
    for name in COMMANDS:
        command = typer.main.get_command(import_module(f"petune.cli.{name}").app)
        parts += _command_parts(f"petune {name}", command)
    parts += ["## Exit codes\n", exit_codes_table()]
    return "\n".join(parts)


def _command_parts(title: str, command: Any) -> list[str]:
    parts = [f"## {title}\n", f"{' '.join((command.help or '').split())}\n"]
    if command.epilog:
        parts.append(f"{command.epilog}\n")
    options = [(_spelling(p), _text(p)) for p in command.params if p.name not in ("help", "install_completion")]
    if options:
        parts.append(table(("argument", "meaning"), options))
    for name, child in getattr(command, "commands", {}).items():
        parts += _command_parts(f"{title} {name}", child)
    return parts


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    # A flag may be written with underscores too; one spelling is enough to read.
    names = [name for name in parameter.opts if "_" not in name] + list(parameter.secondary_opts)
    if parameter.is_flag:
        return " / ".join(f"`{name}`" for name in names)
    metavar = parameter.metavar or ("INTEGER" if type(parameter.default) is int else "TEXT")
    return f"`{names[0]} {metavar}`"


def _text(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    shown = parameter.default
    if parameter.required:
        return f"{text} Required."
    return f"{text} (default: {shown})" if isinstance(shown, str | int) and not parameter.is_flag else text


def schema() -> str:
    """Return the JSON schema of recipes: the keys of a run, then those of the method it names."""
    run = RunOptions.model_json_schema()
    properties = {name: _plain(field) for name, field in run["properties"].items()}
    default = properties["method"]["default"]
    properties["method"]["enum"] = list(methods.names())
    choices = []
    for name in methods.names():
        settings = methods.get(name).config_class.model_json_schema()["properties"]
        chosen: dict[str, Any] = {"properties": {"method": {"const": name}}}
        if name != default:  # a recipe without the key has the default method
            chosen["required"] = ["method"]
        choices.append({"if": chosen, "then": {"properties": {n: _plain(s) for n, s in settings.items()}}})
    properties[SEVERAL] = {
        "type": "object",
        "description": "Several adapters to train in one pass: name to the keys that are its own.",
        "additionalProperties": {"type": ["object", "null"]},
        "minProperties": 1,
    }
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "petune recipe",
        "type": "object",
        "properties": properties,
        "allOf": choices,
        "unevaluatedProperties": False,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def compare_schema() -> str:
    """Return the JSON schema of the recipes of comparisons."""
    content = CompareOptions.model_json_schema()
    shared = TrainingOptions.model_json_schema()["properties"]
    properties = {**content["properties"], **{name: shared[name] for name in SHARED_KEYS}}
    properties = {name: _plain(field) for name, field in properties.items()}
    entry = _plain(content["$defs"]["MethodEntry"])
    entry["properties"] = {name: _plain(field) for name, field in entry["properties"].items()}
    entry["properties"]["method"]["enum"] = list(methods.names())
    names = {"enum": [ALL, *methods.names()]}
    properties["methods"] = {
        "description": properties["methods"]["description"],
        "anyOf": [names, {"type": "array", "items": {"anyOf": [names, {"$ref": "#/$defs/MethodEntry"}]}}],
    }
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "petune comparison",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"MethodEntry": entry},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _plain(field: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in field.items() if key != "title"}
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    return kept


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(text) for text in row) + " |\n" for row in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them; return the exit code."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    names = ", ".join(path.relative_to(DOCS.parent).as_posix() for path in stale)
    if "--check" in arguments:
        sys.stdout.write(f"out of date: {names}; run scripts/regenerate_docs.py\n" if stale else "")
        return 1 if stale else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"rewritten: {names or 'nothing, all was up to date'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
