"""Keys change without a restart, and a wrong key file never opens the gate."""

import pytest

from valign.on_ray import gate as gate_module
from valign.on_ray.gate import Gate
from valign.serving.access import new_key
from valign.serving.errors import RequestError


def headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "host": "example.org"}


def test_keys_are_rotated_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_module, "LOOKED_AT_EVERY_S", 0.0)
    file = tmp_path / "keys.jsonl"
    (old, old_line), (new, new_line) = new_key("alice"), new_key("bob")
    file.write_text(old_line + "\n")
    gate = Gate(str(file))
    assert gate.identify("10.0.0.1", headers(old)).id == "alice"
    file.write_text(f"{old_line}\n{new_line}\n")
    assert gate.identify("10.0.0.1", headers(new)).id == "bob"
    file.write_text(new_line + "\n")
    with pytest.raises(RequestError):
        gate.identify("10.0.0.1", headers(old))
    for broken in ("{", "", None):  # damaged, empty, gone
        file.write_text(broken) if broken is not None else file.unlink()
        if broken == "":
            with pytest.raises(RequestError):
                gate.identify("10.0.0.1", headers(new))
            file.write_text(new_line + "\n")
        assert gate.identify("10.0.0.1", headers(new)).id == "bob"
        with pytest.raises(RequestError):
            gate.identify("10.0.0.1", headers(old))


def test_without_a_key_file_only_this_machine_is_admitted():
    gate = Gate("", ("https://page.example",))
    assert gate.identify("127.0.0.1", {"host": "localhost:8000"}).id == ""
    page = {"host": "localhost:8000", "origin": "https://page.example"}
    assert gate.identify("127.0.0.1", page).id == ""
    for server, sent in (
        ("192.168.1.4", {"host": "localhost:8000"}),
        ("127.0.0.1", {"host": "rebound.example:8000"}),
        ("127.0.0.1", {"host": "localhost:8000", "origin": "https://other.example"}),
        ("127.0.0.1", {"host": "localhost:8000", "x-forwarded-for": "10.1.2.3"}),
        ("127.0.0.1", {"host": "localhost:8000", "via": "1.1 proxy"}),
    ):
        with pytest.raises(RequestError):
            gate.identify(server, sent)


def test_no_gate_without_its_key_file(tmp_path):
    with pytest.raises(LookupError, match="no such file"):
        Gate(str(tmp_path / "none.jsonl"))
