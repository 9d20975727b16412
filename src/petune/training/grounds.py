"""What the checkpoints of a run rest on: its rows and its base, which a run that goes on has to have again."""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, final

from petune.backbone.base import Base
from petune.backbone.fingerprint import Fingerprint, compare
from petune.data.encoding import Encoded
from petune.errors import CheckpointError

_ANEW = "or start anew with --overwrite"


@final
class Grounds:
    """What a run rests on.

    Args:
        base: what it trains on.
        rows: its encoded training rows.
        judged_by: its encoded validation rows, which tell the best step.
    """

    def __init__(self, base: Base, rows: Sequence[Encoded], judged_by: Sequence[Encoded] = ()) -> None:
        self._name = base.name
        self._fingerprint = base.fingerprint
        self._rows = {"rows": rows, "validation": judged_by}
        self._digests = {name: rows_digest(own) for name, own in self._rows.items()}

    def state(self) -> dict[str, Any]:
        """Return it as JSON types, for a checkpoint."""
        return {**self._digests, "base": self._fingerprint.to_dict()}

    def require_same(self, state: Mapping[str, Any], step: int) -> None:
        """Check that a checkpoint rests on the same; weights that a model was handed over with cannot be told.

        Args:
            state: what :meth:`state` returned when it was made; what an earlier version left out is not looked at.
            step: its step.

        Raises:
            CheckpointError: it was made with other rows, or on another base.
        """
        for name, what in (("rows", "rows"), ("validation", "validation rows")):
            if state.get(name, self._digests[name]) != self._digests[name]:
                raise CheckpointError(
                    f"the checkpoint of step {step} was made with other {what} than those that"
                    f" {_source(self._rows[name])} holds now; bring the former rows back, {_ANEW}"
                )
        differences = compare(Fingerprint.from_dict(state["base"]), self._fingerprint) if "base" in state else []
        if differences:
            raise CheckpointError(
                f"the checkpoint of step {step} was made on another base than '{self._name}' is now"
                f" ({'; '.join(differences)}); bring the former one back, {_ANEW}"
            )


def rows_digest(rows: Sequence[Encoded]) -> str:
    """Return the SHA-256 over the tokens and labels of ``rows``, in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(array("q", (len(row.input_ids), *row.input_ids, *row.labels)).tobytes())
    return total.hexdigest()


def _source(rows: Sequence[Encoded]) -> str:
    """Return where rows come from, in words."""
    return rows[0].origin.rpartition(":")[0] if rows else "the recipe"
