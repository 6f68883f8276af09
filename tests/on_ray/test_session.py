"""Ray's own start on this machine: what a user reads when it is too slow."""

import pytest
import ray

from valign.on_ray import session

SLOW = "The current node timed out during startup. This could happen because ..."


def test_a_start_that_is_too_slow_is_tried_again_and_then_told_with_its_remedy(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    asked = []

    def too_slow(**options):
        asked.append(options["address"])
        raise Exception(SLOW)

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(RuntimeError, match="too busy.*RAY_ADDRESS=auto"):
        session.join()
    assert asked == ["local"] * session.TRIES

    def broken(**options):
        raise Exception("another reason")

    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(Exception, match="another reason"):
        session.join()
