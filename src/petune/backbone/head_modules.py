"""The place of a further head in the module tree of a base."""

from typing import final

from torch import nn


@final
class HeadModules(nn.Module):
    """The modules of one further head, a child of the base beside its own head; called by the head's own model."""
