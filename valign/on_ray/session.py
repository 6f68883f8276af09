"""Join a Ray cluster, or start one on this machine.

With `RAY_ADDRESS` set, or inside a submitted job, the existing cluster is joined. Otherwise a local
one starts, with token authentication, without a dashboard, and ends with the process.
"""

import logging
import os

import ray

from valign import config
from valign.stages import journal

# Workers use one thread each: on busy cores more threads are up to a hundred times slower.
# With the second, glibc keeps freed memory up to half a GiB: to get each layer's output from the
# system anew costs a CPU a tenth of its images.
# Without the last a worker that reserved no GPU would still see, and use, all of its node's.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=536870912",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
TRIES = 3
_TOO_SLOW = "timed out during startup"  # Ray's words for it
_own = False


def join() -> bool:
    """Connect this process to Ray, once; say whether the cluster is this process's own."""
    global _own  # noqa: PLW0603  (Ray's connection is the process's, and so is this)
    if ray.is_initialized():
        return _own
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    inside_job = config.SUBMITTED in os.environ
    address = os.environ.get("RAY_ADDRESS") or ("auto" if inside_job else "")
    # What a job sets itself reaches its workers anyway; saying it twice is an error to Ray.
    runtime_env = {"env_vars": {k: v for k, v in ENVIRONMENT.items() if k not in os.environ}}
    if journal.LOG in os.environ and not inside_job:  # workers log as their driver does
        runtime_env["env_vars"][journal.LOG] = os.environ[journal.LOG]
    if address:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False)
    else:
        _start(runtime_env)
    _own = not address
    return _own


def _start(runtime_env: dict[str, dict[str, str]]) -> None:
    """Start Ray on this machine; again if it was too slow for Ray's own patience of 30 s.

    Raises:
        RuntimeError: it was too slow every time.
    """
    for _ in range(TRIES):
        try:
            ray.init(
                address="local",  # without, Ray would join what `ray start` left on this machine
                runtime_env=runtime_env,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises no class of its own here
            if _TOO_SLOW not in str(error):
                raise
    raise RuntimeError(
        f"Ray did not start within 30 s, {TRIES} times: this machine is too busy. Try again when "
        "less runs here, or start Ray apart with `ray start --head` and set RAY_ADDRESS=auto"
    )
