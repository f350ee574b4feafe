"""How Ray Train's workers form a torch process group: through the interfaces that hold their nodes' addresses."""

from __future__ import annotations

from typing import Any

import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from tdtrain.train.interface import use_interface_of


def _use_own_interface() -> str | None:
    return use_interface_of(ray.util.get_node_ip_address())


class _Backend(_TorchBackend):
    """Ray Train's own, after every worker has chosen its interface. It is asked again at each start of the workers."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_use_own_interface)
        super().on_start(worker_group, backend_config)


class ReachableTorchConfig(TorchConfig):
    """Ray Train's own, whose workers are reached by their nodes' addresses."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Who forms the group."""
        return _Backend
