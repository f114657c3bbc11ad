"""Log lines, for people or for machines."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """`time` (ISO 8601, UTC), `level`, `logger`, `message`, and `exception` where there is one."""
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
    """Configuration for logging.config.dictConfig: everything on standard error."""
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": text if log_format == "text" else {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
    }
