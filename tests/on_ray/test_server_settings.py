"""What the recipe says of processes, as Serve takes it."""

import pytest
from ray.serve.deployment import deployment_to_schema

from valign.on_ray import server
from valign.stages import serve as stage


def deployments(tmp_path, *settings):
    run = stage.run_of("miniature", [f"root={tmp_path}", *settings])
    application = server.build(run)
    parts = [application, *application._bound_deployment.init_args[1:]]
    schemas = [deployment_to_schema(part._bound_deployment) for part in parts]
    return {schema.name: schema for schema in schemas}


def test_replicas_resources_queues_and_growth_reach_serve(tmp_path):
    found = deployments(
        tmp_path,
        "serve.generator={replicas: 2, max_replicas: 8, gpus: 0.5}",
        "serve.evaluator={replicas: 3, cpus: 2}",
        "serve.batch_size=4", "serve.queue=33", "serve.deadline_s=20",
    )  # fmt: skip
    assert set(found) == {"ingress", "retriever", "generator", "evaluator"}
    generator = found["generator"]
    growth = generator.autoscaling_config
    assert (growth.min_replicas, growth.max_replicas) == (2, 8)
    assert growth.target_ongoing_requests == 4
    assert generator.ray_actor_options.num_gpus == 0.5
    assert (generator.max_ongoing_requests, generator.max_queued_requests) == (8, 33)
    assert generator.user_config == {"batch_size": 4, "wait_s": 0.01}
    assert found["evaluator"].num_replicas == 3
    assert found["evaluator"].ray_actor_options.num_cpus == 2
    for one in found.values():
        assert one.graceful_shutdown_timeout_s > 20
        assert one.max_surge_percent == 100


def test_an_update_without_room_ends_the_old_first(tmp_path):
    found = deployments(tmp_path, "serve.surge=false")
    assert {one.max_surge_percent for one in found.values()} == {0}


def test_a_queue_that_no_large_request_fits_into_is_refused(tmp_path):
    with pytest.raises(ValueError, match="serve.queue=15 .* 16: raise it"):
        deployments(tmp_path, "serve.queue=15")
    deployments(tmp_path, "serve.queue=10", "serve.max_pictures=2")
