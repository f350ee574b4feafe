"""What dead processes of Ray Train hold on to is given back; what others have stays."""

from __future__ import annotations

import time

import pytest
import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train.v2._internal.state.schema import TrainRun
from ray.train.v2._internal.state.state_actor import (
    TRAIN_STATE_ACTOR_NAME,
    TRAIN_STATE_ACTOR_NAMESPACE,
    TrainStateActor,
)
from ray.util import placement_group, placement_group_table, remove_placement_group

from tdtrain.ray_orphans import drop_orphaned_groups, drop_orphaned_requests
from tdtrain.ray_start import connect

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session() -> None:
    connect(num_cpus=4)


def test_what_the_dead_had_reserved_is_given_back_and_what_the_driver_has_stays() -> None:
    @ray.remote(num_cpus=0)
    class Holder:
        def hold(self) -> str:
            self.group = placement_group([{"CPU": 1}])
            ray.get(self.group.ready())
            return str(self.group.id.hex())

    own, holders = placement_group([{"CPU": 1}]), [Holder.remote(), Holder.remote()]
    ray.get(own.ready())
    held = [ray.get(holder.hold.remote()) for holder in holders]

    def there() -> set[str]:
        return {name for name, told in placement_group_table().items() if told["state"] == "CREATED"}

    ray.kill(holders[0])
    while held[0] in there():
        drop_orphaned_groups()
        time.sleep(0.1)
    assert {held[1], own.id.hex()} <= there()
    remove_placement_group(own)
    ray.kill(holders[1])


def test_what_the_dead_had_asked_for_is_withdrawn_and_what_others_ask_for_stays() -> None:
    @ray.remote(num_cpus=0)
    class Controller:
        pass

    name = {"name": TRAIN_STATE_ACTOR_NAME, "namespace": TRAIN_STATE_ACTOR_NAMESPACE, "num_cpus": 0}
    trainings = ray.remote(TrainStateActor).options(**name).remote(enable_state_actor_reconciliation=False)
    coordinator = get_or_create_autoscaling_coordinator()
    controllers = {"stopped": Controller.remote(), "going_on": Controller.remote()}
    for run, controller in controllers.items():
        told = TrainRun.model_construct(id=run, controller_actor_id=controller._actor_id.hex())
        ray.get(trainings.create_or_update_train_run.remote(told))
        ray.get(coordinator.request_resources.remote(f"train-{run}", [{"CPU": 1}], expire_after_s=180))

    def has(run: str) -> bool:
        return bool(ray.get(coordinator.get_reserved_resources.remote(f"train-{run}")))

    drop_orphaned_requests()
    assert has("stopped") and has("going_on")
    ray.kill(controllers["stopped"])
    while has("stopped"):
        drop_orphaned_requests()
        time.sleep(0.1)
    assert has("going_on")
    ray.kill(controllers["going_on"])
    ray.get(coordinator.cancel_request.remote("train-going_on"))
    ray.kill(trainings)
