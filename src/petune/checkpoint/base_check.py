"""Whether the base at hand is the one that an adapter was made for."""

import logging
from dataclasses import replace
from pathlib import Path

from petune.adapter import LearnedTask
from petune.backbone.base import Base
from petune.backbone.fingerprint import Fingerprint, compare
from petune.checkpoint.manifest import Manifest
from petune.errors import BaseMismatchError

logger = logging.getLogger("petune")


def check_base(
    content: Manifest,
    base: Base,
    folder: Path,
    *,
    allow_base_mismatch: bool = False,
    chosen: LearnedTask | None = None,
) -> None:
    """Compare the base an adapter was made for with the one at hand, of several tasks that for the ``chosen`` one.

    Raises:
        BaseMismatchError: they differ, and ``allow_base_mismatch`` is false.
    """
    trained_for = (content.task, content.labels) if chosen is None else (chosen.task, chosen.labels)
    heads = [task for task in content.tasks if task.head is not None and chosen is None]
    missing = [task.name for task in heads if base.labels_of(task.name) != task.labels or task.name not in base.heads]
    if missing:
        raise BaseMismatchError(
            f"{folder} has heads of their own for {', '.join(missing)}, and the base was loaded without; choose one of"
            f" its tasks with task_name (--task-name), or load the base with heads for them"
        )
    if trained_for != (base.task, base.labels):
        wanted, found = (
            f"{task} ({', '.join(labels)})" if labels else task
            for task, labels in (trained_for, (base.task, base.labels))
        )
        raise BaseMismatchError(
            f"{folder} was trained for {wanted}, and the base was loaded for {found}; load it for that"
        )
    expected = Fingerprint.from_dict(content.base.fingerprint)
    if chosen is not None:
        expected = replace(expected, parameters=chosen.parameters)
    differences = compare(expected, base.fingerprint)
    if not differences:
        return
    message = f"{folder} was made for the base '{content.base.name}', not for '{base.name}': {'; '.join(differences)}"
    if not allow_base_mismatch:
        raise BaseMismatchError(f"{message}. Load that base, or pass --allow-base-mismatch to use this one anyway")
    logger.warning("%s; used anyway, as asked", message)
