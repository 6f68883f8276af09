#!/usr/bin/env python
"""Serve a run's models and scorers over HTTP; see docs/serving.md.

python jobs/serve.py runs/demo serve.port=8000
ray job submit --working-dir . -- python jobs/serve.py /shared/run serve.port=8000
"""

import sys

from valign.on_ray.server import run_until_stopped

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if "=" not in word]
    settings = [word for word in sys.argv[1:] if "=" in word]
    try:
        run_until_stopped(words[0] if words else "miniature", settings)
    except (ValueError, LookupError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
