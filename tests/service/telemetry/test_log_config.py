import json
import logging
import logging.config
from datetime import datetime
from typing import Any

import pytest

from service.telemetry.log_config import JsonFormatter, log_config


def record(message: str, *arguments: object, **rest: Any) -> logging.LogRecord:
    return logging.getLogger("vae-service").makeRecord(
        "vae-service", logging.WARNING, __file__, 1, message, arguments, rest.get("exc_info")
    )


def test_a_line_is_one_json_object() -> None:
    line = json.loads(JsonFormatter().format(record("two\n%s", "Zeilen ü")))
    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("warning", "vae-service", "two\nZeilen ü")
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    assert "\n" not in JsonFormatter().format(record("two\nlines"))


def test_an_exception_is_told() -> None:
    error = ZeroDivisionError("by nought")
    line = json.loads(JsonFormatter().format(record("failed", exc_info=(type(error), error, None))))
    assert "ZeroDivisionError: by nought" in line["exception"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_configuration_is_one_that_logging_takes(log_format: Any) -> None:
    config = log_config("error", log_format)
    assert config["root"]["level"] == "ERROR"
    assert config["handlers"]["stderr"]["class"] == "logging.StreamHandler"
    del config["root"]  # the tests' own log stays as it is
    logging.config.dictConfig({**config, "incremental": False})
