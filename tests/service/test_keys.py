import hmac

import pytest

from service.errors import Unauthorized
from service.keys import Keyring


def test_without_keys_everybody_is_let_in_as_one() -> None:
    keyring = Keyring([])
    assert not keyring
    assert keyring.identify("", "") == keyring.identify("", "any")


def test_each_key_has_a_name_that_does_not_tell_it() -> None:
    keyring = Keyring(["first", "second"])
    assert len(keyring) == 2
    names = [
        keyring.identify(authorization, key)
        for authorization, key in (("Bearer first", ""), ("", "first"), ("", "second"))
    ]
    assert names[0] == names[1] != names[2]
    assert b"first" not in names[0]


@pytest.mark.parametrize("key", ["", "firs", "first ", "firsT", "first,second", "\udce9", "é"])
def test_no_other_key_opens(key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        Keyring(["first", "second"]).identify("", key.encode("utf-8", "surrogateescape").decode("latin-1"))
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert "not one of" in caught.value.detail if key else "requires an API key" in caught.value.detail


def test_the_bearer_goes_before_the_other_header() -> None:
    with pytest.raises(Unauthorized):
        Keyring(["right"]).identify("Bearer wrong", "right")


def test_all_keys_are_compared_in_constant_time_and_by_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time reveals neither which key was similar, nor how similar, nor its length."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    keyring = Keyring(["first", "second", "a much longer third"])
    monkeypatch.setattr(hmac, "compare_digest", watched)
    for key in ("first", "a much longer third"):
        keyring.identify("", key)
    with pytest.raises(Unauthorized):
        keyring.identify("", "none of them")
    assert len(compared) == 9
    assert {len(digest) for pair in compared for digest in pair} == {32}
