"""The only door to Ray: carry a stage's shards and training to a cluster, and report back."""
