"""A model with adapters, with the methods and attributes of HF PEFT's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import PushToHubMixin

from petune.adapter import Adapter, build_adapter
from petune.backbone.quantization import unpack
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.peft import task_of, task_type_of
from petune.compat.config import PeftConfig
from petune.compat.folders import adapter_folder
from petune.compat.trainer import save_for_resuming
from petune.compat.unsupported import refuse
from petune.compat.wrapped_model import WrappedModel
from petune.errors import ConfigError


class PeftModel(PushToHubMixin, WrappedModel):  # type: ignore[misc]
    """A transformers model with adapters, and what HF PEFT lets scripts do with them.

    Args:
        model: the model in memory; it is frozen in place.
        peft_config: settings of the first adapter.
        adapter_name: its name.

    Raises:
        ConfigError: settings that petune, or this model, cannot follow.
        BaseModelError: a model that petune cannot use as a base.
    """

    peft_config: dict[str, PeftConfig]

    def __init__(self, model: PreTrainedModel, peft_config: PeftConfig, adapter_name: str = "default") -> None:
        super().__init__(model, peft_config.revision)
        self.peft_config = {}
        self.add_adapter(adapter_name, peft_config)
        self.set_adapter(adapter_name, inference_mode=peft_config.inference_mode)

    @classmethod
    def from_pretrained(
        cls,
        model: PreTrainedModel,
        model_id: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        **others: Any,
    ) -> "PeftModel":
        """Return ``model`` with the adapter of a folder, or of a repository of the hub.

        Args:
            model: the model in memory; it is frozen in place.
            model_id: the folder or the repository.
            adapter_name: the adapter's name.
            is_trainable: whether it is trained on.
            others: as for :meth:`load_adapter`.

        Raises:
            PetuneError: the adapter is damaged, of another base, or asks for what petune lacks.
        """
        wrapped = cls.__new__(cls)
        WrappedModel.__init__(wrapped, model)  # there is no config yet: the folder has it
        wrapped.peft_config = {}
        wrapped.load_adapter(model_id, adapter_name, is_trainable, **others)
        wrapped.set_adapter(adapter_name, inference_mode=not is_trainable)
        return wrapped

    @property
    def active_adapters(self) -> list[str]:
        """Names of the adapters that every row goes through."""
        return list(self.base_model.active)

    @property
    def active_adapter(self) -> str | list[str]:
        """Name of the active adapter; names, where there are several."""
        names = self.active_adapters
        return names[0] if len(names) == 1 else names

    @property
    def active_peft_config(self) -> PeftConfig:
        """Settings of the first active adapter."""
        return self.peft_config[self.active_adapters[0]]

    @property
    def peft_type(self) -> str:
        """Method of the first active adapter."""
        return self.active_peft_config.peft_type

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, **others: Any) -> None:
        """Attach a fresh adapter; :meth:`set_adapter` lets rows go through it. Other arguments are refused.

        Its random start follows torch's global seed.

        Raises:
            ConfigError: the name is taken, or petune or the base cannot follow the settings.
        """
        refuse("add_adapter", **others)
        model, structure = self.get_base_model(), self.base_model.base.structure
        self._require_task(peft_config)
        seed = int(torch.randint(2**31, ()).item())
        options = peft_config.options(model, structure)
        adapter = build_adapter(peft_config.method, options, model, structure, name=adapter_name, seed=seed)
        start = peft_config.start(model)
        if start is not None:
            adapter.load_tensors({**adapter.tensors(), **peft_config.layout.from_file(start, adapter, structure)})
        self.base_model.attach(adapter, active=False)
        adapter.set_trainable(False)
        self.peft_config[adapter_name] = peft_config

    def _require_task(self, config: PeftConfig) -> None:
        task, wanted = self.base_model.base.task, task_of({"task_type": config.task_type})
        if config.task_type is not None and wanted != task:
            raise ConfigError(
                f"task_type is {config.task_type}, but a {type(self.get_base_model()).__name__} is for"
                f" {task_type_of(task)}; load the model with transformers' class for the task, or change it"
            )

    def load_adapter(self, model_id: str | Path, adapter_name: str, is_trainable: bool = False, **others: Any) -> None:
        """Attach the adapter of a folder or a repository, or give its tensors to the attached one of that name.

        Args:
            model_id: the folder or the repository.
            adapter_name: the name it gets, or has.
            is_trainable: whether it is trained on.
            others: ``subfolder``, and what may be said of a download: ``revision``, ``token``, ``cache_dir``,
                ``force_download``, ``local_files_only``. Others are refused.

        Raises:
            PetuneError: the adapter is damaged, of another base, or asks for what petune lacks.
        """
        refuse("load_adapter", autocast_adapter_dtype=others.pop("autocast_adapter_dtype", True))
        others = {name: value for name, value in others.items() if value is not None}
        folder = adapter_folder(model_id, **others)
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not is_trainable
        loaded = load_adapter(folder, self.base_model.base, name=adapter_name)
        if adapter_name not in self.base_model.adapters:
            self.base_model.attach(loaded, active=False)
            loaded.set_trainable(is_trainable)
            self.peft_config[adapter_name] = config
        else:
            self._load_over(loaded, folder, is_trainable)
        if not is_trainable:
            self.eval()

    def _load_over(self, loaded: Adapter, folder: Path, is_trainable: bool) -> None:
        """Give the attached adapter of the same name the tensors of ``loaded``."""
        own, structure = self.base_model.adapter(loaded.name), self.base_model.base.structure
        layout, baked = self.peft_config[loaded.name].layout, own.baked()
        descriptions = [layout.config(a.without_replacements(), structure) for a in (loaded, baked)]
        if descriptions[0] != descriptions[1] or loaded.replacements.keys() != own.replacements.keys():
            raise ConfigError(
                f"{folder} holds an adapter with other settings than '{loaded.name}' has; load it under another name"
            )
        if baked is not own and is_trainable:
            raise ConfigError(
                f"{folder} holds what the encoder of '{loaded.name}' computed, not the encoder that is being trained;"
                " load it under another name to train its virtual tokens directly"
            )
        trainable = any(p.requires_grad for p in own.parameters())
        self.base_model.bake(loaded.name)
        self.base_model.adapter(loaded.name).load_tensors(loaded.tensors())
        self.base_model.adapter(loaded.name).set_trainable(trainable)

    def delete_adapter(self, adapter_name: str) -> None:
        """Detach an adapter; where it was the only active one, the first of the others takes its place."""
        self.base_model.detach(adapter_name)
        del self.peft_config[adapter_name]
        if not self.base_model.active and self.peft_config:
            self.set_adapter(next(iter(self.peft_config)))

    def set_adapter(self, adapter_name: str | Sequence[str], inference_mode: bool = False) -> None:
        """Send every row through one adapter, or several in order, and train them alone; none in inference mode."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self.base_model.activate(*names)
        for name, adapter in self.base_model.adapters.items():
            adapter.set_trainable(name in names and not inference_mode)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Send every row through the bare base inside the block.

        Raises:
            ConfigError: an adapter is merged into the base.
        """
        active = self.base_model.active
        self._require_bare_weights()
        self.base_model.activate()
        try:
            yield
        finally:
            self.base_model.activate(*active)

    def _require_bare_weights(self) -> None:
        if merged := self.base_model.merged:
            raise ConfigError(f"'{merged[0]}' is merged into the base; call unmerge_adapter first")

    def merge_adapter(self, adapter_names: Sequence[str] | None = None, safe_merge: bool = False) -> None:
        """Add adapters, by default the active ones, to the base's weights; with ``safe_merge`` sums must be finite.

        Raises:
            ConfigError: an adapter that cannot be merged, or a sum that is not finite; nothing is merged then.
        """
        done: list[str] = []
        try:
            for name in self.active_adapters if adapter_names is None else adapter_names:
                self.base_model.merge(name)
                done.append(name)
            if safe_merge and not all(p.isfinite().all() for p in self.get_base_model().parameters()):
                raise ConfigError("merging makes weights that are not finite; the adapter holds NaN or huge values")
        except ConfigError:
            for name in reversed(done):
                self.base_model.unmerge(name)
            raise

    def unmerge_adapter(self) -> None:
        """Give the base its own weights back, bit for bit."""
        for name in reversed(self.base_model.merged):
            self.base_model.unmerge(name)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Sequence[str] | None = None
    ) -> PreTrainedModel:
        """Merge adapters, by default the active ones, for good; return the transformers model without any adapter.

        Raises:
            ConfigError: an adapter that cannot be merged, or a sum that is not finite.
        """
        refuse("merge_and_unload", progressbar=progressbar)
        wanted = self.active_adapters if adapter_names is None else adapter_names
        self.merge_adapter([name for name in wanted if name not in self.base_model.merged], safe_merge)
        self.base_model.keep_merged()
        model = self.unload()
        unpack(model, model.modules())  # transformers saves plain weights alone
        return model

    def unload(self) -> PreTrainedModel:
        """Detach every adapter and return the transformers model as it was."""
        for name in tuple(self.base_model.adapters):
            self.base_model.detach(name)
        self.peft_config.clear()
        return self.get_base_model()

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        selected_adapters: Sequence[str] | None = None,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        **others: Any,
    ) -> None:
        """Write adapters, by default all: the one called ``default`` to the folder, others to folders below it.

        Args:
            save_directory: the folder.
            safe_serialization: False is refused; petune writes no pickles.
            selected_adapters: which adapters to write.
            is_main_process: whether this process is the one that writes.
            state_dict: the whole model's tensors, where the caller has them already.
            others: PEFT's other arguments, refused.

        Raises:
            ConfigError: an argument that is not supported.
            OutputFolderError, ResourceError: the folder cannot be written.
        """
        refuse("save_pretrained", safe_serialization=safe_serialization, **others)
        folder = Path(save_directory)
        for name in self.base_model.adapters if selected_adapters is None else selected_adapters:
            self.require_same(name, state_dict)
            if is_main_process:
                save_adapter(self.base_model, folder if name == "default" else folder / name, name=name)
        if is_main_process:
            baking = any(adapter.baked() is not adapter for adapter in self.base_model.adapters.values())
            save_for_resuming(self, folder, needed=baking)

    def require_same(self, adapter_name: str, state_dict: Mapping[str, Tensor] | None) -> None:
        """Make sure that ``state_dict``, where there is one, holds the adapter as the model does.

        Raises:
            ConfigError: no such adapter, or other tensors.
        """
        own = {id(p) for p in self.base_model.adapter(adapter_name).parameters()}
        if state_dict is None:
            return
        for name, parameter in self.named_parameters():
            given = state_dict.get(name)
            if id(parameter) in own and (given is None or not torch.equal(given.to(parameter), parameter)):
                raise ConfigError(
                    f"state_dict lacks '{name}' of adapter '{adapter_name}', or holds another value than the model;"
                    " call load_state_dict with it first, or leave it out"
                )
