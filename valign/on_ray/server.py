"""The server as a Ray Serve application: started here, or by `serve deploy`.

    applications:
      - import_path: valign.on_ray.server:application
        args: {target: s3://bucket/run, settings: [serve.keys=/secrets/keys.jsonl]}

Serve replaces processes one by one when the application is deployed again, and lets each finish
what it has begun.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from valign.config import Run
from valign.on_ray import proxy, session
from valign.on_ray.deploy import Ingress
from valign.on_ray.replicas import EvaluatorReplica, GeneratorReplica, RetrieverReplica
from valign.serve_settings import Replicas
from valign.stages import release
from valign.stages import serve as stage

NAME = "valign"
CONNECTIONS = 512  # requests that one ingress process holds
FOLLOW_S = 30.0  # between looks at a release's pointer
TRIES = 2  # to start a process, before the server is given up
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)  # the audit file is ours


def application(args: Mapping[str, Any]) -> serve.Application:
    """Return the application that a Serve config names.

    Args:
        args: `target`, a run's root, an aligned model's folder or a recipe; `settings`, a list of
            key=value.

    Raises:
        ValueError: a setting is wrong, or keys are missing.
        LookupError: there is no such model.
    """
    return build(stage.run_of(str(args.get("target", "miniature")), args.get("settings", [])))


def build(run: Run) -> serve.Application:
    """Return the application of a run: ingress, retriever, generator and evaluator.

    Raises:
        ValueError: a setting is wrong, or keys are missing.
    """
    stage.check(run)
    mine = run.serve
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" and not mine.keys:
        raise ValueError("RAY_SERVE_ENABLE_HA_PROXY=1 listens everywhere: set serve.keys")
    batches = {"batch_size": mine.batch_size, "wait_s": mine.batch_wait_s}
    busy = 2 * mine.batch_size  # one batch at work, the next one at hand
    generator = serve.deployment(GeneratorReplica).options(
        name="generator", user_config=batches, **_options(run, mine.generator, busy, mine.queue)
    )
    evaluator = serve.deployment(EvaluatorReplica).options(
        name="evaluator", user_config=batches, **_options(run, mine.evaluator, busy, mine.queue)
    )
    retriever = serve.deployment(RetrieverReplica).options(
        name="retriever", **_options(run, mine.retriever, 64, mine.queue)
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        **_options(run, mine.ingress, CONNECTIONS, CONNECTIONS),
        backpressure_config={"status_code": 503, "retry_after_s": 2},
    )
    parts = (part.bind(run) for part in (retriever, generator, evaluator))
    return ingress.bind(run, *parts)


def _options(run: Run, part: Replicas, ongoing: int, queued: int) -> dict[str, Any]:
    growing = {
        "min_replicas": part.replicas,
        "max_replicas": part.max_replicas,
        "target_ongoing_requests": max(1, ongoing // 2),
    }
    count = (
        {"num_replicas": part.replicas}
        if part.max_replicas is None
        else {"num_replicas": "auto", "autoscaling_config": growing}
    )
    return {
        **count,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": queued,
        "max_constructor_retry_count": TRIES,
        "graceful_shutdown_timeout_s": _patience_s(run),
        "max_surge_percent": 100 if run.serve.surge else 0,
        "logging_config": LOGGING,
        "ray_actor_options": {
            "num_cpus": part.cpus,
            "num_gpus": part.gpus,
            "runtime_env": {"env_vars": session.ENVIRONMENT},
        },
    }


def start(run: Run) -> str:
    """Start the server, or replace one that runs, and return its URL once it is ready.

    Raises:
        ValueError: a setting is wrong, keys are missing, or Serve runs with other HTTP options.
        RuntimeError: a process does not start.
    """
    made = build(run)
    # a proxy that is slow to start on a busy machine is not a dead one
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", proxy.WHERE)
    session.join()
    mine = run.serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(
        host=mine.host,
        port=mine.port,
        request_timeout_s=mine.deadline_s + mine.body_timeout_s + 5,
    )
    with contextlib.suppress(TimeoutError):  # as above: the controller goes on to start it
        serve.start(http_options=options, logging_config=LOGGING)
    _check_http(options)
    serve.run(made, name=NAME, route_prefix="/")
    shown = "127.0.0.1" if mine.host == "0.0.0.0" else mine.host
    return f"http://{shown}:{mine.port}"


def _check_http(wanted: HTTPOptions) -> None:
    """Raise ValueError if Serve runs already, with other options: it would ignore these."""
    runs = _get_global_client().http_config
    if runs.port != wanted.port or runs.host != wanted.host:
        raise ValueError(
            f"Serve listens on {runs.host}:{runs.port} on this cluster already: set serve.host and "
            "serve.port so, or end it with `serve shutdown`"
        )
    if runs.request_timeout_s is not None and runs.request_timeout_s < wanted.request_timeout_s:
        raise ValueError(
            f"Serve gives up on requests after {runs.request_timeout_s:g} s on this cluster: lower "
            f"serve.deadline_s + serve.body_timeout_s to {runs.request_timeout_s - 5:g} s, or end "
            "it with `serve shutdown`"
        )


def run_until_stopped(target: str, settings: Sequence[str]) -> None:
    """Start the server; on a cluster of this process's own, stay until a signal ends it.

    On a cluster that was joined, the server stays when this process ends.

    Raises:
        ValueError: a setting is wrong, or keys are missing.
        LookupError: there is no such model.
        RuntimeError: a process does not start.
    """
    follows = target.startswith(release.SCHEME)
    served = release.pointer(target) if follows else ""
    run = stage.run_of(target, settings)
    url = start(run)
    guarded = "API keys needed" if run.serve.keys else "no API keys: this machine only"
    models = ", ".join([*stage.folders(run), stage.BASE])
    print(f"{url}/   models: {models} · {guarded}", flush=True)
    print(f"audit: {stage.audit_file(run)}", flush=True)
    own = session.join()
    if not own:
        print(f"runs on the cluster; `serve status` shows it, app {NAME}", flush=True)
        if not follows:
            return
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(FOLLOW_S if follows else None):
        served, run = follow(target, settings, served, run)
    if own:
        print("stops, once what was begun is done", flush=True)
        stop(run)


def follow(target: str, settings: Sequence[str], served: str, run: Run) -> tuple[str, Run]:
    """Serve what a release's pointer names now, if it was moved; return it, or what is served."""
    try:
        now = release.pointer(target)
        if now == served:
            return served, run
        moved = stage.run_of(target, settings)
        start(moved)
    except (ValueError, LookupError, RuntimeError, OSError) as error:
        print(f"{target}: keeps what it serves: {error}", flush=True)
        return served, run
    print(f"{target}: serves {moved.root} now", flush=True)
    return now, moved


def stop(run: Run) -> None:
    """End the server of this process once all that it has begun is answered."""
    ingress = serve.get_app_handle(NAME)
    with contextlib.suppress(TimeoutError):  # what is not answered by then is past its deadline
        # Serve itself ends the processes that speak HTTP before all others, and at once.
        ingress.broadcast("close").results(timeout_s=_patience_s(run))
    serve.shutdown()
    ray.shutdown()


def _patience_s(run: Run) -> float:
    """Return after how many seconds every request is answered."""
    return run.serve.deadline_s + 5
