#!/usr/bin/env python
"""Make images, scores, pairs and latents from prompts.

python jobs/build_dataset.py recipe=miniature root=runs/mine
python jobs/build_dataset.py prompts=my_prompts.tsv root=runs/scored
"""

import sys

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import dataset, execute

if __name__ == "__main__":
    run = config.from_command_line(sys.argv[1:])
    execute(dataset(run), run, Cluster(run.resources))
