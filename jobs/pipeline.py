#!/usr/bin/env python
"""The whole product: prompts in, an aligned model and a measured report out.

python jobs/pipeline.py recipe=miniature root=runs/mine
ray job submit --working-dir . -- python jobs/pipeline.py recipe=miniature root=s3://bucket/mine
"""

import sys

from valign import config
from valign.on_ray.cluster import Cluster
from valign.stages.execute import execute

STAGES = (
    "generate",  # prompts -> images, on many workers
    "score",  # images -> attributes, toxicity, CLIP score
    "label",  # scores -> preferred and dispreferred images, in pairs
    "encode",  # pairs -> latents and text embeddings, once
    "train",  # pairs -> a value encoder beside the untouched base model
    "evaluate",  # base and aligned model -> numbers with intervals, and a report
)

if __name__ == "__main__":
    run = config.from_command_line(sys.argv[1:])
    execute(STAGES, run, Cluster(run.resources))
