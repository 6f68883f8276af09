"""What a stage was begun with and what it made: the chain that keeps a root of one piece.

`begin` notes the settings before the first byte of work, `commit` is written last: its presence
means that the stage is finished. A manifest holds the fingerprint of the stage's settings and of
the manifests it read, so work under a root that was made with other settings is an error that
names them, never a mixture.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from valign.storage import layout
from valign.storage.objects import Store

SCHEMA_VERSION = 1
_SHOWN_DIFFERENCES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A stage's settings, what it read, and what it made.

    Attributes:
        stage: its verb, which is also its prefix under the root.
        fingerprint: hash of settings and upstream.
        settings: what shaped the result, flat with dotted keys; JSON values.
        upstream: fingerprint of each stage that was read.
        parts: keys of what it made, sorted.
        counts: what was counted, for summaries; JSON values.
    """

    stage: str
    fingerprint: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the manifest's file; the same manifest always gives the same bytes."""
        tree = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return (json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Return the manifest of a file.

        Raises:
            ValueError: the file is of another schema version, or is no manifest.
        """
        tree = json.loads(data)
        found = tree.pop("schema_version", None)
        if found != SCHEMA_VERSION:
            raise ValueError(
                f"a manifest of schema version {found} was found; this version of valign reads "
                f"{SCHEMA_VERSION}: use another root, or the version that made this one"
            )
        return cls(**{**tree, "parts": tuple(tree["parts"])})


def begin(
    store: Store,
    stage: str,
    fingerprint: str,
    settings: Mapping[str, Any],
    upstream: Mapping[str, str] | None = None,
) -> Manifest | None:
    """Note that a stage is begun, or return its manifest if it is finished.

    Raises:
        ValueError: the stage was begun or finished under this root with another fingerprint.
    """
    note = Manifest(
        stage=stage, fingerprint=fingerprint, settings=settings, upstream=upstream or {}
    )
    if not store.create(layout.started(stage), note.to_json()):
        check(store, stage, fingerprint, settings, upstream)
    return get(store, stage)


def check(
    store: Store,
    stage: str,
    fingerprint: str,
    settings: Mapping[str, Any],
    upstream: Mapping[str, str] | None = None,
) -> None:
    """Make sure that nothing under the root was made with other settings.

    Raises:
        ValueError: something was; the message lists every key that differs, with both values.
    """
    for key in (layout.manifest(stage), layout.started(stage)):
        if not store.exists(key):
            continue
        there = Manifest.from_json(store.read(key))
        if there.fingerprint != fingerprint:
            differing = differences(there, settings, upstream or {})
            raise ValueError(
                f"{stage} under {store.url} was made with other settings:\n  "
                + "\n  ".join(differing)
                + "\nUse another root, restore these settings, or delete "
                + f"{stage}/ (and the stages after it) to make it anew."
            )


def differences(
    there: Manifest, settings: Mapping[str, Any], upstream: Mapping[str, str]
) -> list[str]:
    """Return one line per setting, or stage read, that is not as it was; never empty."""
    # Through JSON, so that tuples and lists, which are one thing in a file, are one thing here.
    asked = json.loads(json.dumps(dict(settings)))
    lines = [
        f"{key}: {_show(there.settings, key)} there, {_show(asked, key)} now"
        for key in sorted({*there.settings, *asked})
        if _show(there.settings, key) != _show(asked, key)
    ]
    lines += [
        f"{key} was made anew, or with other settings, since"
        for key in sorted({*there.upstream, *upstream})
        if there.upstream.get(key) != upstream.get(key)
    ]
    if len(lines) > _SHOWN_DIFFERENCES:
        lines[_SHOWN_DIFFERENCES:] = [f"and {len(lines) - _SHOWN_DIFFERENCES} more"]
    return lines or ["no setting differs: it was made by another version of valign"]


def commit(store: Store, manifest: Manifest) -> None:
    """Write a stage's manifest: from now on the stage is finished."""
    store.write(layout.manifest(manifest.stage), manifest.to_json())


def get(store: Store, stage: str) -> Manifest | None:
    """Return the manifest of a finished stage, or None."""
    key = layout.manifest(stage)
    return Manifest.from_json(store.read(key)) if store.exists(key) else None


def _show(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "unset"
