"""The model card, ``README.md``, that goes with every adapter folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.heads import auto_class
from petune.backbone.task_names import TaskName
from petune.checkpoint.peft import MODEL_LAYOUT, layout_of

FILE_NAME = "README.md"

_PIPELINES: Mapping[TaskName, str] = {
    "causal_lm": "text-generation",
    "seq2seq_lm": "text2text-generation",
    "masked_lm": "fill-mask",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
}
"""What the hub calls each task."""


def model_card(adapter: Adapter, base: Base, training: Mapping[str, Any] | None) -> str:
    """Return the Markdown of the card: what was trained, on which base, how to load it here and with HF PEFT."""
    method = adapter.method
    in_peft = layout_of(adapter, base.structure) is not None
    front = {
        "base_model": base.name,
        "library_name": "peft" if in_peft else "transformers" if method.name in MODEL_LAYOUT else "petune",
        "pipeline_tag": _PIPELINES[base.task],
        "tags": ["petune", method.name],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True).strip(),
        "---",
        "",
        f"# {method.title} on {base.name}",
        "",
    ]
    learned = "trained with" if method.trains else "none learned: chosen with"
    lines.append(f"{adapter.num_parameters():,} numbers, {learned} {method.title}.")
    if method.paper is not None:
        lines.append(
            f"Method: {method.paper.authors} ({method.paper.year}), [{method.paper.title}]({method.paper.url})."
        )
    if adapter.tasks:
        lines += ["", "Trained for several tasks at once:", "", "| name | task | classes |", "|---|---|---|"]
        lines += [f"| {task.name} | {task.task} | {_cell(', '.join(task.labels))} |" for task in adapter.tasks]
    writes = base.model.can_generate() and not adapter.tasks
    command = 'petune generate --adapter . --prompt "..."' if writes else "petune predict --adapter . --data rows.jsonl"
    call = 'petune.generate(model, ["..."])[0].text' if writes else 'petune.predict(model, "rows.jsonl")'
    name, choice = (adapter.tasks[0].name, f" --task-name {adapter.tasks[0].name}") if adapter.tasks else ("", "")
    loading = f'petune.load(".", task_name="{name}")' if name else 'petune.load(".")'
    lines += ["", "## Use", "", "```bash", f"{command}{choice}", "```", ""]
    lines += ["```python", "import petune", "", f"model = {loading}", f"print({call})", "```"]
    if in_peft:
        lines += ["", 'HF PEFT reads the folder as well: `PeftModel.from_pretrained(base, ".")`.']
    elif method.name in MODEL_LAYOUT:
        lines += [
            "",
            f'The folder is also a plain transformers model: `{auto_class(base.task).__name__}.from_pretrained(".")`.',
        ]
    lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | `{value}` |" for key, value in adapter.trained_config.model_dump(mode="json").items()]
    if training:
        lines += ["", "## Training", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in training.items()]
    return "\n".join(lines) + "\n"


def is_card(path: Path) -> bool:
    """Say whether the file is a model card that petune wrote."""
    try:
        front, _, _ = path.read_text(encoding="utf-8", errors="replace").partition("\n---\n")
    except OSError:
        return False
    return front.startswith("---\n") and "- petune" in front.splitlines()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")
