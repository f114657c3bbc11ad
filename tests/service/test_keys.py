import pytest
from starlette.datastructures import Headers

from service.errors import Unauthorized
from service.keys import Keyring


def test_without_keys_everybody_is_let_in_as_one() -> None:
    keyring = Keyring([])
    assert not keyring
    assert keyring.identify(Headers()) == keyring.identify(Headers({"x-api-key": "any"}))


def test_each_key_has_a_name_that_does_not_tell_it() -> None:
    keyring = Keyring(["first", "second"])
    assert len(keyring) == 2
    names = [
        keyring.identify(Headers(headers))
        for headers in ({"authorization": "Bearer first"}, {"x-api-key": "first"}, {"x-api-key": "second"})
    ]
    assert names[0] == names[1] != names[2]
    assert b"first" not in names[0]


@pytest.mark.parametrize("key", ["", "firs", "first ", "firsT", "first,second", "\udce9", "é"])
def test_no_other_key_opens(key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        Keyring(["first", "second"]).identify(Headers(raw=[(b"x-api-key", key.encode("utf-8", "surrogateescape"))]))
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert "not one of" in caught.value.detail if key else "asks for an API key" in caught.value.detail


def test_the_bearer_goes_before_the_other_header() -> None:
    with pytest.raises(Unauthorized):
        Keyring(["right"]).identify(Headers({"authorization": "Bearer wrong", "x-api-key": "right"}))


def test_a_key_of_any_letters_opens() -> None:
    keyring = Keyring(["schlüssel"])
    assert keyring.identify(Headers(raw=[(b"x-api-key", "schlüssel".encode())]))
