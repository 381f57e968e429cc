"""Tenants' keys are read strictly, and never shown."""

import pytest
from pydantic import ValidationError

from orchestrator import tenants
from orchestrator.settings import Settings


def test_every_tenant_has_its_key() -> None:
    assert tenants.parse("alice=key1,bob.2=a=b==") == {"alice": "key1", "bob.2": "a=b=="}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "entry 1 needs a name"),
        ("secret", "entry 1 needs a key"),
        ("=secret", "entry 1 needs a name"),
        ("alice=", "entry 1 needs a key"),
        ("alice=secret,", "entry 2 needs a name"),
        ("alice=secret, bob=other", "entry 2 needs a name"),
        ("alice=secret,bob=oth er", "entry 2 needs a key"),
        ("alice=secret,alice=other", "entry 2 names 'alice' again"),
        ("alice=secret,bob=secret", "entry 2 has another's key"),
        ("al\nice=secret", "entry 1 needs a name"),
        ("alice=schlüssel", "entry 1 needs a key"),
    ],
)
def test_what_cannot_be_read_names_the_setting_and_the_entry_and_no_key(
    monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    monkeypatch.setenv("MUSTER_API_KEYS", text)
    with pytest.raises(ValidationError) as told:
        Settings()
    assert "MUSTER_API_KEYS" in str(told.value)
    assert complaint in str(told.value)
    assert not any(key in str(told.value) for key in ("secret", "oth er", "schlüssel"))


def test_no_tenant_has_the_operators_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_API_KEY", "secret")
    monkeypatch.setenv("MUSTER_API_KEYS", "alice=secret")
    with pytest.raises(ValidationError, match="MUSTER_API_KEYS gives a tenant the operator's key") as told:
        Settings()
    assert "secret" not in str(told.value)


def test_without_the_setting_there_are_no_tenants() -> None:
    assert Settings().tenants == {}
