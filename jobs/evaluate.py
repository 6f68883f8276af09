#!/usr/bin/env python
"""Make numbers with intervals and a report, for base and aligned model.

python jobs/evaluate.py recipe=miniature root=runs/mine --fail-if "toxicity.avg_r > 0.05"

Ends with exit code 1 if the results are as a --fail-if says.
"""

import sys

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages import results
from valign.stages.execute import execute

if __name__ == "__main__":
    conditions, words = results.conditions_of(sys.argv[1:])
    run = config.from_command_line(words)
    execute(("evaluate",), run, Cluster(run.resources))
    sys.exit(results.exit_code(run.root, conditions))
