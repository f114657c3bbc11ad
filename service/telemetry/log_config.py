"""Logging configuration: lines of text or JSON on standard error."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception` if there is one."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_config(level: str, log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return a configuration for logging.config.dictConfig."""
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": text if log_format == "text" else {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
    }
