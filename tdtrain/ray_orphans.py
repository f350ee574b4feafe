"""What dead processes of Ray Train hold on to, given back."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray._private.state import actors
from ray._private.state import state as _state
from ray.core.generated import gcs_pb2
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train.v2._internal.state.state_actor import get_state_actor
from ray.util.placement_group import PlacementGroup, remove_placement_group

ANSWER_S = 30.0


def drop_orphaned_groups() -> None:
    """Gives back what actors of this job had reserved that are dead: Ray does so when the whole job is, and Ray Train's
    own cleaner asks a dashboard, which a local cluster has not."""
    kind: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made by protobuf
    own, nobody = ray.get_runtime_context().get_job_id(), ray.ActorID.nil().binary()  # what the driver reserved stays
    for content in _state._connect_and_get_accessor().get_placement_group_table():
        group = kind.FromString(content)
        gone = group.state == kind.REMOVED
        orphaned = group.creator_actor_dead and group.creator_actor_id != nobody
        if orphaned and group.creator_job_id.hex() == own and not gone:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def drop_orphaned_requests() -> None:
    """Withdraws what trainings asked for whose controller is dead, for its job was stopped or it was killed. For three
    minutes more Ray counts it as taken, and elastic workers would start as fewer than there is room for.

    Only a cluster that was joined has the record of trainings that this takes; where it does not answer, nothing is
    withdrawn.
    """
    trainings: Any = get_state_actor()
    if trainings is None:
        return
    coordinator = get_or_create_autoscaling_coordinator()
    with contextlib.suppress(ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        # Before the actors, or a training that has just begun would seem dead.
        begun: Any = ray.get(trainings.get_train_runs.remote(), timeout=ANSWER_S)
        living = {name for name, actor in actors().items() if actor["State"] != "DEAD"}
        orphaned = [name for name, training in begun.items() if training.controller_actor_id not in living]
        ray.get([coordinator.cancel_request.remote(f"train-{name}") for name in orphaned], timeout=ANSWER_S)
