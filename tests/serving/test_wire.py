"""What may be asked: requests are read strictly, and errors name the field."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.serving.errors import RequestError
from valign.serving.fields import schema
from valign.serving.tables import Limits, compare_fields, images_fields, score_fields
from valign.serving.wire import (
    compare_request,
    decoded,
    from_base64,
    images_request,
    score_request,
)

LIMITS = Limits(picture_bytes=1000)
PNG = base64.b64encode(b"\x89PNG").decode()


def test_a_prompt_alone_is_a_request():
    request = images_request({"prompt": "a doctor"}, LIMITS)
    assert (request.n, request.size, request.principles) == (1, None, "auto")
    assert (request.value_strength, request.seed, request.steps) == (1.0, None, None)


def test_every_field_of_openai_and_ours_is_read():
    asked = {
        **{"prompt": "a doctor", "n": 3, "size": "64x128", "response_format": "b64_json"},
        **{"output_format": "webp", "user": "me", "model": "base", "seed": 7},
        **{"num_inference_steps": 4, "guidance_scale": 3, "negative_prompt": "rain"},
        **{"principles": ["gender"], "value_strength": 0.5, "quality": "standard"},
    }
    request = images_request(asked, LIMITS)
    assert (request.n, request.size, request.output_format) == (3, (64, 128), "webp")
    assert (request.principles, request.value_strength, request.guidance) == ("gender", 0.5, 3.0)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": "   "}, "prompt", "blank"),
        ({"prompt": 3}, "prompt", "string"),
        ({"prompt": "x" * 2001}, "prompt", "at most 2,000"),
        ({"prompt": "a\ud800b"}, "prompt", "no text"),
        ({"n": 0}, "n", "from 1 to 10"),
        ({"n": 11}, "n", "from 1 to 10"),
        ({"n": True}, "n", "whole number"),
        ({"n": 10**400}, "n", "from 1 to 10"),
        ({"n": 1.5}, "n", "whole number"),
        ({"size": "1x"}, "size", "WIDTHxHEIGHT"),
        ({"size": "99999x99999"}, "size", "pixels"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "png, jpeg, webp"),
        ({"seed": -1}, "seed", "from 0"),
        ({"seed": 2**53}, "seed", "from 0"),
        ({"num_inference_steps": 1000}, "num_inference_steps", "from 1 to 50"),
        ({"guidance_scale": 0.5}, "guidance_scale", "from 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "from 1"),
        ({"principles": ["gender", "race"]}, "principles", "more than one"),
        ({"principles": "gender"}, "principles", "a list of one key"),
        ({"principles": [3]}, "principles", "a list of one key"),
        ({"value_strength": 3}, "value_strength", "from 0 to 2"),
        ({"stream": True}, "stream", "one of False"),
        ({"promt": "x"}, "promt", "unknown field"),
    ],
)
def test_what_is_wrong_is_named(change, param, words):
    with pytest.raises(RequestError, match=words) as caught:
        images_request({"prompt": "a doctor", **change}, LIMITS)
    assert (caught.value.status, caught.value.param) == (400, param)
    error = caught.value.body()["error"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_the_guard_reads_prompts_and_its_refusal_does_not_quote_them():
    prompt = "a nude child"
    with pytest.raises(RequestError) as caught:
        images_request({"prompt": prompt}, LIMITS)
    assert caught.value.code == "content_policy_violation"
    assert prompt not in str(caught.value)
    with pytest.raises(RequestError):
        compare_request({"prompt": prompt, "images": [PNG, PNG]}, LIMITS)
    assert score_request({"items": [{"image": PNG, "prompt": prompt}]}, LIMITS)[0].fault


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nan", b'{"a": NaN}', b"[" * 100_000, b"\xff", b"1" * 5000]
)
def test_what_is_no_json_is_told(body):
    with pytest.raises(RequestError, match="no JSON"):
        decoded(body)


def test_pictures_come_as_bytes_only():
    for url in ("https://example.com/a.png", "file:///etc/passwd", "http://[::1]/"):
        assert "URLs are not read" in from_base64(url, "a hill", LIMITS).fault
    assert from_base64(f"data:image/png;base64,{PNG}", "a hill", LIMITS).data == b"\x89PNG"
    assert from_base64("no base64!", "a hill", LIMITS).fault == "it is no base64"
    assert "1,000 bytes" in from_base64("A" * 4000, "a hill", LIMITS).fault
    assert not from_base64(base64.b64encode(b"x" * 1000).decode(), "a hill", LIMITS).fault


def test_one_bad_picture_does_not_refuse_the_others():
    items = [{"image": PNG, "prompt": "a hill"}, {"image": "%", "prompt": "a hill"}]
    good, bad = score_request({"items": items}, LIMITS)
    assert not good.fault
    assert bad.fault
    with pytest.raises(RequestError, match=r"items\[1\].prompt is missing"):
        score_request({"items": [items[0], {"image": PNG}]}, LIMITS)
    with pytest.raises(RequestError, match="2 to 16"):
        compare_request({"prompt": "a hill", "images": [PNG]}, LIMITS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*images_fields(LIMITS), "x"]), JSON), JSON)
def test_any_json_is_read_or_refused(fields, other):
    for body in (fields, {"prompt": "a hill", **fields}, other):
        for reader in (images_request, score_request, compare_request):
            try:
                reader(body, LIMITS)
            except RequestError as error:
                assert error.status == 400
                error.body()["error"]["message"].encode()


def test_the_schema_says_what_is_checked():
    found = schema(images_fields(LIMITS))
    assert found["required"] == ["prompt"]
    assert found["properties"]["n"]["maximum"] == 10
    assert found["properties"]["prompt"]["type"] == "string"
    assert found["properties"]["output_format"]["type"] == ["string", "null"]
    assert found["properties"]["output_format"]["enum"] == ["png", "jpeg", "webp", None]
    assert schema(score_fields(LIMITS))["properties"]["items"]["maxItems"] == 16
    assert schema(compare_fields(LIMITS))["properties"]["images"]["minItems"] == 2
