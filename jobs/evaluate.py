#!/usr/bin/env python
"""Make numbers with intervals and a report, for base and aligned model.

python jobs/evaluate.py recipe=miniature root=runs/mine
"""

import sys

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute

if __name__ == "__main__":
    run = config.from_command_line(sys.argv[1:])
    execute(("evaluate",), run, Cluster(run.resources))
