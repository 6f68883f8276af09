#!/usr/bin/env python
"""Make a value encoder from an encoded dataset.

python jobs/train.py recipe=miniature root=runs/mine
"""

import sys

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute

if __name__ == "__main__":
    run = config.from_command_line(sys.argv[1:])
    execute(("train",), run, Cluster(run.resources))
