"""The only door to bytes: every artifact of a run lies under one root URL and passes through here.

`objects` opens stores (a small vocabulary over keys) and finds what a recipe names (package data,
folders, hub ids), `files` keeps objects on a disk, `layout` has the names under a root, `tables`
rows as Parquet with versioned schemas, `manifests` the commit of a stage, and `checkpoints` the
state of a training run.

Two promises hold everywhere: a reader never sees half an object, and what commits a group of
objects (a manifest, a marker) is written last.
"""
