import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.__main__ import main
from service.settings import BUNDLED, Settings, SettingsError, read_settings

VALUES: dict[str, tuple[str, Any]] = {
    "checkpoint": ("/models/other.pt", Path("/models/other.pt")),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "workers": ("3", 3),
    "api_keys": ("one, two,", (SecretStr("one"), SecretStr("two"))),
    "api_keys_file": ("keys", (SecretStr("three"), SecretStr("four, five"))),
    "body_limit": ("1000", 1000),
    "models": ("models", Path("models")),
    "models_memory": ("1000000", 1_000_000),
    "image_pixel_limit": ("2000", 2000),
    "batch_limit": ("30", 30),
    "micro_batch_limit": ("4", 4),
    "memory_limit": ("200000000", 200_000_000),
    "compute_memory": ("5000000000", 5_000_000_000),
    "queue_limit": ("50", 50),
    "request_deadline": ("0.5", 0.5),
    "client_timeout": ("1.5", 1.5),
    "keep_alive": ("9", 9.0),
    "drain_time": ("7", 7.0),
    "torch_threads": ("2", 2),
    "compute": ("thread", "thread"),
    "runtime": ("torch", "torch"),
    "device": ("cuda:1", "cuda:1"),
    "dtype": ("bfloat16", "bfloat16"),
    "metrics": ("key", "key"),
    "tracing": ("true", True),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "cors_origins": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
}
"""Of each setting the text that an operator writes, and what it means; none of them is the default."""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("VAE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("keys").write_text("# who calls\n\n three\r\nfour, five \n  # nobody\n")
    Path("other-keys").write_text("six")


def environment_name(name: str) -> str:
    return f"VAE_{name.upper()}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_every_setting_is_tried_here() -> None:
    assert VALUES.keys() == Settings.model_fields.keys()
    defaults = read_settings([])
    for name, (_, value) in VALUES.items():
        assert getattr(defaults, name) != value


@pytest.mark.parametrize("name", VALUES)
def test_by_environment_and_by_flag(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = VALUES[name]
    assert getattr(read_settings([flag(name), text]), name) == value
    assert getattr(read_settings([f"{flag(name)}={text}"]), name) == value
    monkeypatch.setenv(environment_name(name), text)
    settings = read_settings([])
    assert getattr(settings, name) == value
    monkeypatch.delenv(environment_name(name))
    defaults = read_settings([])
    assert not [other for other in VALUES if other != name and getattr(settings, other) != getattr(defaults, other)]


@pytest.mark.parametrize("name", VALUES)
def test_a_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = VALUES[name]
    default = getattr(read_settings([]), name)
    others = {"api_keys": "three", "api_keys_file": "other-keys", "cors_origins": "https://c.example"}
    other = others.get(name, str(default))
    monkeypatch.setenv(environment_name(name), other)
    assert getattr(read_settings([flag(name), text]), name) == value


def test_safe_by_default() -> None:
    settings = read_settings([])
    assert settings.host == "127.0.0.1"
    assert settings.cors_origins == settings.keys == ()
    assert settings.checkpoint == BUNDLED
    assert BUNDLED.is_file()


def test_keys_of_both_places_count_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_API_KEYS", "one,three")
    assert read_settings(["--api-keys-file", "keys"]).keys == ("one", "three", "four, five")
    assert read_settings([]).keys == ("one", "three")


@pytest.mark.parametrize("keys", [",", " , ,", " "])
def test_no_key_where_one_was_meant_does_not_open_the_service(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("VAE_API_KEYS", keys)
    with pytest.raises(SettingsError, match=r"^api_keys: It has only commas and blanks; leave it unset"):
        read_settings([])


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "missing cannot be read: No such file or directory"), ("\n# none\n", "missing contains no key")],
)
def test_a_file_that_gives_no_key_stops_the_start(content: str | None, said: str) -> None:
    if content is not None:
        Path("missing").write_text(content)
    with pytest.raises(SettingsError, match=rf"^api_keys_file: {said}\. See vae-serve --help\.$"):
        read_settings(["--api-keys=one", "--api-keys-file=missing"])


def test_a_file_whose_name_is_no_utf_8_is_told_of_all_the_same() -> None:
    with pytest.raises(SettingsError, match=r"^api_keys_file: keys\? cannot be read: No such file or directory\."):
        read_settings(["--api-keys-file=keys\udcff"])


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert read_settings(["--host", "::1"]).address == "[::1]:8000"
    assert read_settings(["--host", "0.0.0.0", "--port", "80"]).address == "0.0.0.0:80"


@pytest.mark.parametrize("key", ["ключ", "schlüssel", "a\tkey", "\udce9"])
def test_a_key_that_no_caller_can_send_stops_the_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    Path("keys").write_text(f"one\n{key}\n", "utf-8", "surrogateescape")
    monkeypatch.setenv("VAE_API_KEYS", f"one,{key}")
    for name, arguments in (("api_keys", []), ("api_keys_file", ["--api-keys=one", "--api-keys-file=keys"])):
        with pytest.raises(
            SettingsError, match=rf"^{name}: Key 2 has characters that are not printable ASCII"
        ) as caught:
            read_settings(arguments)
        assert key not in str(caught.value)


@pytest.mark.parametrize("name", ["checkpoint", "host", "api_keys_file"])
def test_an_empty_setting_is_called_empty(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(environment_name(name), "")
    with pytest.raises(SettingsError, match=rf"^{name}: It is empty; leave it unset for the default\."):
        read_settings([])


@pytest.mark.parametrize(
    "origin",
    ["not an origin", "example.org", "https://", "https://a.example/", "https://a.example/b", "//a", "*.example"],
)
def test_what_no_browser_sends_as_its_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^cors_origins: '.*' is not an origin such as https://"):
        read_settings([f"--cors-origins=https://a.example,{origin}"])


@pytest.mark.parametrize("origin", ["*", "http://localhost:3000", "https://[::1]:8080", "chrome-extension://abcdef"])
def test_origins(origin: str) -> None:
    assert read_settings([f"--cors-origins={origin}"]).cors_origins == (origin,)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_settings([]).port = 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VAE_PROT", "VAE_PROT is not a setting of this service; did you mean VAE_PORT?"),
        ("VAE_API_KEY", "did you mean VAE_API_KEYS?"),
        ("VAE_WORKER", "did you mean VAE_WORKERS?"),
        ("VAE_XYZZY", "VAE_XYZZY is not a setting of this service."),
        ("VAE_FOO", "VAE_FOO is not a setting of this service."),
    ],
)
def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as caught:
        read_settings([])
    assert str(caught.value).endswith(said)


def test_the_url_that_clients_read_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_BASE_URL", "http://localhost:8000")
    assert read_settings([]).port == 8000


BAD = [
    ("port", "eighty"),
    ("port", "-1"),
    ("port", "65536"),
    ("port", ""),
    ("workers", "0"),
    ("body_limit", "0"),
    ("batch_limit", "1.5"),
    ("micro_batch_limit", "0"),
    ("memory_limit", "100000000"),  # less than four bodies
    ("queue_limit", "0"),
    ("request_deadline", "0"),
    ("request_deadline", "soon"),
    ("drain_time", "-1"),
    ("torch_threads", "0"),
    ("compute", "never"),
    ("device", "tpu"),
    ("device", "cuda:"),
    ("dtype", "float64"),
    ("log_level", "loud"),
    ("log_format", "xml"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: .*\. See vae-serve --help\.$"):
        read_settings([f"{flag(name)}={text}"])
    monkeypatch.setenv(environment_name(name), text)
    with pytest.raises(SettingsError, match=rf"^{name}: "):
        read_settings([])


def test_all_bad_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_WORKERS", "none")
    with pytest.raises(SettingsError, match=r"port: .*; workers: |workers: .*; port: "):
        read_settings(["--port=x"])


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_API_KEYS", "hush,whisper")
    Path("keys").write_text("whispered too")
    settings = read_settings(["--api-keys-file", "keys"])
    assert "whispered too" in settings.keys
    shown = f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hush" not in shown
    assert "whisper" not in shown
    monkeypatch.setenv("VAE_PORT", "x")
    with pytest.raises(SettingsError) as caught:
        read_settings([])
    assert "hush" not in str(caught.value)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of vae-serve."""
    monkeypatch.setattr(sys, "argv", ["vae-serve", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_a_bad_start_is_one_sentence_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAE_PROT", "8000")
    assert run(monkeypatch) == 2
    sentence = "vae-serve: VAE_PROT is not a setting of this service; did you mean VAE_PORT?\n"
    assert capsys.readouterr() == ("", sentence)


def test_an_unknown_flag_is_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--prot", "8000") == 2
    error = capsys.readouterr().err
    assert "unrecognized arguments: --prot 8000" in error
    assert "Traceback" not in error


def test_help_tells_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_settings(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert flag(name) in shown
        assert field.description
        assert field.description.split("; ")[0] in shown
