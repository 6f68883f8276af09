"""The server over HTTP, with the clients that people use: all but what Ray Serve adds."""

import base64
import io
import json
import time

import numpy as np
import openai
import pytest
from PIL import Image

from tests.on_ray.serving_world import ask, raw
from tests.stages.hostile_pictures import HOSTILE
from valign.models.aligned import AlignedPipeline
from valign.records import noise_seed
from valign.serving.access import new_key
from valign.storage import layout

pytestmark = pytest.mark.slow
PROMPT = "a photo of a doctor, said the canary"


@pytest.fixture(scope="module")
def client(site) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0)


def pixels(encoded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)


def test_the_openai_client_draws_the_offline_images(site, client):
    made = client.images.generate(
        prompt=PROMPT, n=3, size="64x64", response_format="b64_json", user="me",
        extra_body={"seed": 7, "principles": ["nudity"]},
    )  # fmt: skip
    offline = AlignedPipeline.from_pretrained(site.root / layout.ALIGNED)
    seeds = [noise_seed(7, PROMPT, index) for index in range(3)]
    base = client.images.generate(prompt=PROMPT, n=3, model="base", extra_body={"seed": 7})
    for keys, images in ((["nudity"] * 3, made.data), ([""] * 3, base.data)):
        expected = offline([PROMPT] * 3, keys, seeds).astype(int)
        for image, wanted in zip(images, expected, strict=True):
            assert np.abs(pixels(image.b64_json) - wanted).max() <= 1
    told = made.data[1].model_extra["valign"]
    assert (told["principle"], told["applied"], told["seed"], told["index"]) == (
        "nudity",
        True,
        7,
        1,
    )
    assert told["reason"] == "principle nudity was asked for"
    card = client.models.retrieve("aligned").model_extra
    assert told["fingerprint"] == card["fingerprint"]
    assert [model.id for model in client.models.list()] == ["aligned", "base"]


def test_the_retriever_says_which_principle_and_why(site, client):
    told = [
        client.images.generate(prompt=text, extra_body={"seed": 1}).data[0].model_extra["valign"]
        for text in ("a red bus", "a zombie on a hill", "a naked statue")
    ]
    assert [one["principle"] for one in told] == ["", "", "nudity"]
    assert "neither a toxic word nor a person" in told[0]["reason"]
    assert "has no token for it" in told[1]["reason"]  # horror, which it was not trained for
    assert '"naked"' in told[2]["reason"]


def test_strength_0_is_the_base_and_formats_are_what_is_asked(site, client):
    def drawn(**more):
        return client.images.generate(prompt="a red bus", **more).data[0]

    asked = {"seed": 3, "principles": ["nudity"]}
    base = pixels(drawn(model="base", extra_body={"seed": 3}).b64_json)
    none = pixels(drawn(extra_body={**asked, "value_strength": 0}).b64_json)
    full = pixels(drawn(extra_body=asked).b64_json)
    assert np.abs(base - none).max() <= 1
    assert np.abs(base - full).max() > 1
    for form in ("jpeg", "webp", "png"):
        data = base64.b64decode(drawn(output_format=form, extra_body=asked).b64_json)
        assert Image.open(io.BytesIO(data)).format == form.upper()
        assert b"red bus" not in data  # no prompt in the file


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"n": 11}, openai.BadRequestError, "n"),
        ({"size": "65x64"}, openai.BadRequestError, "size"),
        ({"size": "512x512"}, openai.BadRequestError, "size"),
        ({"model": "dall-e-3"}, openai.NotFoundError, "model"),
        ({"extra_body": {"principles": ["gender", "race"]}}, openai.BadRequestError, "principles"),
        ({"extra_body": {"principles": ["peace"]}}, openai.BadRequestError, "principles"),
        ({"extra_body": {"sed": 1}}, openai.BadRequestError, "sed"),
        ({"prompt": "a nude child"}, openai.BadRequestError, "prompt"),
    ],
)
def test_the_client_raises_its_own_errors(client, change, error, param):
    with pytest.raises(error) as caught:
        client.images.generate(**{"prompt": PROMPT, **change})
    assert caught.value.body["param"] == param
    assert "nude" not in str(caught.value)


def test_pictures_are_scored_one_by_one(site, client):
    image = client.images.generate(prompt="a red bus", extra_body={"seed": 1}).data[0].b64_json
    bad = [base64.b64encode(HOSTILE[name][0]).decode() for name in ("bomb", "text", "zero bytes")]
    items = [{"image": each, "prompt": "a red bus"} for each in (image, *bad, "https://x/a.png")]
    status, found, _ = ask(site, "/v1/score", {"items": items})
    assert status == 200
    good, *others = found["data"]
    assert good["error"] is None
    assert good["attributes"]["gender"] in ("male", "female")
    assert set(good["toxic"]) == {"nudity", "bloody", "horror"}
    assert good["scores"]["clip_score_cleaned"] is None
    assert all(one["error"]["message"] and not one["scores"] for one in others)
    mark = "XyZ"
    form = "".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        for name, file in (("prompt", ""), ("image", '; filename="a.png"'))
    ).split("\r\n\r\n")
    data = (
        f"{form[0]}\r\n\r\na red bus\r\n".encode()
        + f"{form[1]}\r\n\r\n".encode() + base64.b64decode(image) + f"\r\n--{mark}--".encode()
    )  # fmt: skip
    kind = f"multipart/form-data; boundary={mark}"
    status, by_form, _ = ask(site, "/v1/score", data, Content_Type=kind)
    assert status == 200
    score = by_form["data"][0]["scores"]["clip_score"]
    assert score == pytest.approx(good["scores"]["clip_score"], abs=1e-3)


def test_pictures_are_compared_by_vote(site, client):
    made = client.images.generate(prompt="a red bus", n=3, extra_body={"seed": 1}).data
    images = [image.b64_json for image in made]
    status, found, _ = ask(site, "/v1/compare", {"prompt": "a red bus", "images": images})
    assert status == 200
    assert len(found["pairs"]) == 3
    for pair in found["pairs"]:
        assert set(pair["ballots"]) == {"clip_score", "pickscore"}
        assert pair["margin"] == sum(pair["ballots"].values())
        assert np.sign(pair["margin"]) == pair["verdict"]
    assert ask(site, "/v1/compare", {"prompt": "a bus", "images": images[:1]})[0] == 400
    spoilt = {"prompt": "a bus", "images": [images[0], "no picture"]}
    status, found, _ = ask(site, "/v1/compare", spoilt)
    assert (status, found["error"]["param"]) == (422, "images")
    assert "images[1]: it is no base64" in found["error"]["message"]


def test_what_is_served_is_listed(site):
    principles = ask(site, "/v1/principles")[1]["data"]
    assert {one["id"]: one["models"] for one in principles}["nudity"] == ["aligned"]
    scorers = ask(site, "/v1/scorers")[1]
    assert scorers["voters"] == ["clip_score", "pickscore"]
    document = ask(site, "/openapi.json")[1]
    fields = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    assert fields["application/json"]["schema"]["required"] == ["prompt"]


def test_without_a_key_only_health_and_the_page_are_open(site):
    for path in ("/healthz", "/readyz", "/", "/api", "/openapi.json"):
        assert ask(site, path, Authorization="")[0] == 200
    for path in ("/v1/models", "/v1/principles", "/v1/scorers"):
        for token in ("", "Bearer ", "Bearer wrong", f"Basic {site.key}", site.key):
            status, found, headers = ask(site, path, Authorization=token)
            assert (status, found["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
    assert ask(site, "/v1/images/generations", {"prompt": "a"}, Authorization="")[0] == 401
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{site.url}/v1", api_key="x", max_retries=0).models.list()


def test_every_answer_is_sealed_and_errors_have_one_form(site):
    asked = [
        (200, "/healthz", None, {}),
        (200, "/v1/models", None, {}),
        (404, "/nothing", None, {}),
        (405, "/v1/images/generations", None, {}),
        (404, "/v1/models/none", None, {}),
        (415, "/v1/score", b"x", {"Content_Type": "text/plain"}),
        (415, "/v1/images/generations", b"x", {"Content_Type": "multipart/form-data"}),
        (400, "/v1/images/generations", b"{", {}),
        (400, "/v1/images/generations", b"[" * 5000, {}),
        (404, "/page/..%2f..%2fconfig.py", None, {}),
    ]
    for expected, path, body, headers in asked:
        status, found, sealed = ask(site, path, body, **headers)
        assert status == expected, (path, found)
        assert sealed["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in sealed["content-security-policy"]
        assert "access-control-allow-origin" not in sealed
        if status >= 400:
            assert set(found["error"]) == {"message", "type", "param", "code"}


def test_slow_oversized_and_malformed_bodies_end_in_an_error(site):
    start = (
        "POST /v1/images/generations HTTP/1.1\nHost: x\nContent-Type: application/json\n"
        f"Authorization: Bearer {site.key}\n"
    )
    assert b" 408 " in raw(site, start + "Content-Length: 100\n\n", b'{"prompt"')
    # Only announced: a server that hangs up on what is too large may do so before all is sent.
    refused = raw(site, start + "Content-Length: 99999999999\n\n")
    assert b" 413 " in refused and b'{"error":' in refused.replace(b'{"error": ', b'{"error":')
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    assert b" 413 " in raw(site, start + "Transfer-Encoding: chunked\n\n", chunk + b"1\r\nx\r\n")
    assert b" 400 " in raw(site, start + "Content-Length: -5\n\n")
    assert ask(site, "/healthz")[0] == 200


def test_keys_are_exchanged_without_a_restart(site):
    before = site.keys.read_text()
    token, line = new_key("second", requests_per_minute=2)
    site.keys.write_text(before + line + "\n")
    status, found, headers = limited(site, token)
    assert (status, found["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1
    site.keys.write_text(before)
    deadline = time.monotonic() + 40
    while ask(site, "/v1/models", Authorization=f"Bearer {token}")[0] != 401:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert ask(site, "/v1/models")[0] == 200


def limited(site, token):
    """Ask with a new key of two requests a minute until it is known, and then too often."""
    deadline = time.monotonic() + 20
    while ask(site, "/v1/models", Authorization=f"Bearer {token}")[0] == 401:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    answers = [ask(site, "/v1/models", Authorization=f"Bearer {token}") for _ in range(3)]
    assert {status for status, _, _ in answers} <= {200, 429}
    return answers[-1]


def test_the_audit_says_who_did_what_and_no_prompt(site):
    for more in ({"model": "base"}, {"principles": ["nudity"]}, {"prompt": "a nude child"}):
        ask(site, "/v1/images/generations", {"prompt": PROMPT, **more})
    ask(site, "/v1/models", Authorization="Bearer valign-no-key-of-this-server")
    before = site.keys.read_text()
    token, line = new_key("third", requests_per_minute=2)
    site.keys.write_text(before + line + "\n")
    limited(site, token)
    site.keys.write_text(before)
    lines = (site.root / "serve/audit.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    drawn = [r for r in records if r["route"] == "/v1/images/generations" and r["status"] == 200]
    assert {"tester"} == {record["key"] for record in drawn}
    assert {"aligned", "base"} == {record["model"] for record in drawn}
    assert any(record["principle"] == "nudity" for record in drawn)
    refused = {record["verdict"] for record in records if record["status"] != 200}
    assert {"content_policy_violation", "invalid_api_key", "rate_limit_exceeded"} <= refused
    assert (site.root / "serve/audit.jsonl").stat().st_mode & 0o077 == 0
    text = (site.root / "serve/audit.jsonl").read_text()
    assert "the canary" not in text
    assert site.key not in text
