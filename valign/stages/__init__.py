"""What each verb of a run does, without Ray: plan the work, do a shard of it, commit the result."""
