"""API keys: kept as hashes, compared whole, limited each on its own."""

import json

import pytest

from valign.serving.access import (
    NOBODY,
    ApiKey,
    Meter,
    bearer,
    check_keyless,
    identify,
    new_key,
    read_keys,
)
from valign.serving.errors import RequestError


def test_a_new_key_is_admitted_and_the_file_does_not_hold_it():
    token, line = new_key("alice", requests_per_minute=5, concurrent=2)
    other, second = new_key("bob")
    keys = read_keys(f"# who may ask\n\n{line}\n{second}\n")
    assert identify(token, keys) == keys[0]
    assert identify(other, keys).id == "bob"
    assert token not in line
    assert len(token) > 40
    assert (keys[0].requests_per_minute, keys[0].concurrent) == (5, 2)


@pytest.mark.parametrize("token", ["", "valign-", "x" * 100_000, "\ud800", "välign"])
def test_any_other_token_is_refused(token):
    keys = read_keys(new_key("alice")[1])
    with pytest.raises(RequestError) as caught:
        identify(token, keys)
    assert caught.value.status == 401


def test_no_keys_admit_nobody():
    with pytest.raises(RequestError):
        identify("", ())


def test_the_header_is_read():
    assert bearer("Bearer abc") == bearer("bearer  abc ") == "abc"
    assert bearer("Basic abc") == bearer("") == bearer("Bearer") == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "line 2"),
        ('{"id": "a"}', "JSON object"),
        (json.dumps({"id": "a", "sha256": "secret-in-clear"}), "64 hex digits"),
        (json.dumps({"id": "", "sha256": "0" * 64}), "name of its own"),
        (json.dumps({"id": "a", "sha256": "0" * 64, "concurrent": 0}), "above 0"),
    ],
)
def test_a_bad_key_file_is_told_by_line_and_never_quoted(line, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_keys(f"# keys\n{line}")
    assert "secret-in-clear" not in str(caught.value)
    with pytest.raises(ValueError, match="line 2"):
        read_keys("\n".join([new_key("a")[1], new_key("a")[1]]))


def test_requests_per_minute_refill_with_time():
    now = [0.0]
    meter, key = Meter(lambda: now[0]), ApiKey(id="a", sha256="", requests_per_minute=2)
    for _ in range(2):
        with meter.admitted(key):
            pass
    with pytest.raises(RequestError) as caught, meter.admitted(key):
        pass
    assert (caught.value.status, caught.value.retry_after_s) == (429, 30)
    now[0] = 30.0
    with meter.admitted(key):
        pass
    with pytest.raises(RequestError), meter.admitted(key):
        pass
    with meter.admitted(ApiKey(id="b", sha256="", requests_per_minute=1)):
        pass  # another key has its own


def test_concurrent_requests_are_counted_until_they_end():
    meter, key = Meter(lambda: 0.0), ApiKey(id="a", sha256="", concurrent=1)
    with meter.admitted(key):
        with pytest.raises(RequestError, match="under way"), meter.admitted(key):
            pass
        with meter.admitted(NOBODY):
            pass
    with pytest.raises(ZeroDivisionError), meter.admitted(key):
        raise ZeroDivisionError
    with meter.admitted(key):
        pass


@pytest.mark.parametrize(
    ("server", "host", "origin"),
    [
        ("10.0.0.3", "localhost:8000", None),  # bound elsewhere
        ("127.0.0.1", "evil.example:8000", None),  # a name of another site that leads here
        ("127.0.0.1", "localhost:8000", "https://evil.example"),
        ("127.0.0.1", "localhost:8000", "null"),
        ("127.0.0.1", "", None),
    ],
)
def test_a_server_without_keys_answers_its_own_machine_only(server, host, origin):
    with pytest.raises(RequestError) as caught:
        check_keyless(server, host, origin)
    assert caught.value.status in (401, 403)


def test_a_server_without_keys_answers_its_own_machine():
    check_keyless("127.0.0.1", "localhost:8000", None)
    check_keyless("127.0.0.1", "127.0.0.1:8000", "http://127.0.0.1:8000")
    check_keyless("::1", "[::1]:8000", "http://[::1]:8000")
    check_keyless("127.0.0.1", "localhost", "http://localhost")
