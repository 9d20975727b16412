"""Who petune is raced against, in which manners, and what each one's environment holds."""

from collections.abc import Mapping
from dataclasses import dataclass

_TRAINER = ("accelerate>=1.10", "datasets>=4.0", "safetensors>=0.5")
_PEFT = frozenset(
    {
        "lora",
        "lora_all_linear",
        "prompt_tuning",
        "p_tuning",
        "prefix_tuning",
        "p_tuning_v2",
        "llama_adapter",
        "llama_adapter_top",
        "full",
    }
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program that trains.

    Attributes:
        title: how the table names it.
        worker: module in ``race.workers`` that runs it.
        requirements: what pip installs into its environment.
        contests: names of the contests that it can enter.
        manners: how it is run: ``default`` as it comes, ``tuned`` within the budget that the README states.
        needs_card: whether it runs on a CUDA device alone.
    """

    title: str
    worker: str
    requirements: tuple[str, ...]
    contests: frozenset[str]
    manners: tuple[str, ...] = ("default", "tuned", "compiled")
    needs_card: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the packages whose versions are told."""
        return tuple(dict.fromkeys(_name(requirement) for requirement in self.requirements))


UNSLOTH = "unsloth"

PEERS: Mapping[str, Peer] = {
    "peft": Peer(
        "HF PEFT + Trainer",
        "peft_contest",
        ("transformers==5.23.*", "peft==0.21.2", *_TRAINER),
        _PEFT,
    ),
    "trl": Peer(
        "TRL SFTTrainer",
        "trl_contest",
        ("transformers==5.23.*", "peft==0.21.2", "trl==1.16.*", *_TRAINER),
        _PEFT,
    ),
    "adapterhub": Peer(
        "AdapterHub adapters",
        "adapterhub_contest",
        ("transformers==4.57.6", "adapters==1.3.0", *_TRAINER),
        frozenset({"bottleneck"}),
        ("default", "tuned"),
    ),
    UNSLOTH: Peer(
        "Unsloth",
        "unsloth_contest",
        ("unsloth", *_TRAINER),
        frozenset({"lora", "lora_all_linear"}),
        ("default", "tuned"),
        needs_card=True,
    ),
}


def _name(requirement: str) -> str:
    return requirement.partition("=")[0].rstrip("<>~!")
