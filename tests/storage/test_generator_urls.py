"""A generator in a bucket: copied once per node whoever asks, safetensors only, held to a hash."""

import collections
import functools
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests import tiny
from tests.original_layout import save_checkpoint
from tests.storage.faulty_proxy import FaultyProxy
from valign.config import Run
from valign.models.pipeline_files import is_wanted
from valign.stages.generator import fetched, fingerprint_of, load_generator
from valign.storage.objects import open_store, resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_generator(tmp_path_factory.mktemp("tiny") / "generator")


@pytest.fixture
def uploaded(folder: Path, bucket: str) -> str:
    """URL of the pipeline folder in the bucket, with the litter that hubs leave in them."""
    store = open_store(f"s3://{bucket}/models/tiny")
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.write(file.relative_to(folder).as_posix(), file)
    for name in ("unet/diffusion_pytorch_model.bin", "unet/x.fp16.safetensors", "README.md"):
        store.write(name, b"never copied")
    return store.url


def run_of(generator: str, **more: str) -> Run:
    return Run.model_validate({"generator": generator, **more})


def test_a_folder_in_a_bucket_is_the_generator_it_was_uploaded_from(uploaded, folder):
    run = run_of(uploaded)
    assert fingerprint_of(run) == fingerprint_of(run_of(str(folder)))
    copied = {file.name for file in fetched(run).folder.rglob("*") if file.is_file()}
    assert {"model_index.json", "tokenizer.json", "model.safetensors"} <= copied
    assert not any("fp16" in name or name.endswith((".bin", ".md")) for name in copied)
    assert load_generator(run).size_px == 64


def test_a_checkpoint_in_a_bucket_and_under_a_file_url(folder, bucket, tmp_path):
    file = save_checkpoint(folder, tmp_path / "sd.safetensors")
    store = open_store(f"s3://{bucket}/models")
    store.write("sd.safetensors", file)
    config = f"file://{folder}"
    there = run_of(f"{store.url}/sd.safetensors", generator_config=config)
    here = run_of(f"file://{file}", generator_config=config)
    assert fingerprint_of(there) == fingerprint_of(here)
    assert load_generator(there).fingerprint == fingerprint_of(here)


def test_a_hash_that_does_not_match_is_an_error_that_gives_both(uploaded, folder, bucket, tmp_path):
    wrong = "0" * 64
    right = fingerprint_of(run_of(str(folder)))
    assert fetched(run_of(uploaded, generator_sha256=right))
    with pytest.raises(ValueError, match=f"has sha256 {right}, and generator_sha256 names {wrong}"):
        fetched(run_of(uploaded, generator_sha256=wrong))
    store = open_store(uploaded)
    weights = store.read("unet/diffusion_pytorch_model.safetensors")
    store.write("unet/diffusion_pytorch_model.safetensors", weights[:-4] + b"\1\2\3\4")
    with pytest.raises(ValueError, match="it is another one, or was damaged"):
        fetched(run_of(uploaded, generator_sha256=right))


def test_pickles_in_a_bucket_are_refused_before_they_are_copied(folder, uploaded, tmp_path):
    with pytest.raises(ValueError, match="is a pickle"):
        fetched(run_of(f"{uploaded}/unet/diffusion_pytorch_model.bin"))
    store = open_store(uploaded)
    store.delete("unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="unet holds no safetensors.*pickles are never read"):
        fingerprint_of(run_of(uploaded))


def test_nothing_there_is_told(bucket):
    with pytest.raises(LookupError, match="there is no models/none"):
        fetched(run_of(f"s3://{bucket}/models/none"))


class CountingProxy(FaultyProxy):
    """Also counts the objects that were fetched, by path."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.fetched: collections.Counter[str] = collections.Counter()

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        if asked.command == "GET" and "?" not in asked.path:
            self.fetched[asked.path] += 1
        super().answer(asked)


def test_whoever_asks_at_once_copies_once(uploaded, folder, s3_service, monkeypatch):
    proxy = CountingProxy(s3_service)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    wanted = functools.partial(is_wanted, variant=None)
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        waiting = processes.starmap_async(resolve, [(uploaded, wanted)] * 4, chunksize=1)
        with ThreadPoolExecutor(4) as threads:
            found = {*threads.map(lambda url: resolve(url, wanted), [uploaded] * 8)}
        found |= {*waiting.get(timeout=100)}
    proxy.close()
    assert len(found) == 1
    files = [file for file in folder.rglob("*") if file.is_file() and wanted(file.name)]
    assert len(files) > 8
    assert len(proxy.fetched) == len(files) == proxy.fetched.total()


def test_a_copy_that_a_killed_process_left_half_done_is_begun_anew(uploaded, tmp_path):
    wanted = functools.partial(is_wanted, variant=None)
    copy = Path(resolve(uploaded, wanted))
    (whole,) = (entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir())
    expected = {file.relative_to(copy): file.read_bytes() for file in copy.rglob("*.json")}
    (copy / "model_index.json").write_bytes(b"half")
    whole.rename(whole.with_suffix(".part"))
    again = Path(resolve(uploaded, wanted))
    assert {
        file.relative_to(again): file.read_bytes() for file in again.rglob("*.json")
    } == expected
    assert not whole.with_suffix(".part").exists()
