#!/usr/bin/env python
"""Make the papers' tables on the miniature, row by row; see docs/reproduction.md.

python jobs/reproduce.py --tune --out docs/results
python jobs/reproduce.py --rows 'livo*' dapt --seeds 1 --root runs/tables --plan
"""

import sys

from valign.on_ray.cluster import Cluster
from valign.reproduction import reproduce

if __name__ == "__main__":
    reproduce.main(sys.argv[1:], lambda run: Cluster(run.resources))
