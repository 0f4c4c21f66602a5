"""Structured logs: one line an event, the same shape for our lines and those of the libraries.

Lines are JSON, or readable on a terminal. Every line that is written while a request is served carries its
``request_id`` and ``trace_id``; nothing that looks like a credential is ever written.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO, cast

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from allsource_shared.context import add_request_ids
from allsource_shared.masking import CREDENTIAL_FORMS, MASK
from allsource_shared.settings import LoggingSettings

__all__ = ["configure_logging", "mask_secrets"]

_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|token|authorization|api_?key|ticket|cookie|credential|private_?key", re.IGNORECASE
)
# What has the form of a credential, whatever follows a bearer scheme, and the ticket of a stream address.
_SECRET_VALUE: Final = re.compile(CREDENTIAL_FORMS + r"|(?<=[Bb]earer )\S+|(?<=ticket=)[^&\s\"']+")

# What later processors still need as it is: the exception, which is masked once it is text, and the record of a
# foreign logger.
_NOT_TEXT_YET: Final = frozenset({"exc_info", "_record", "_from_structlog"})

EventDict = MutableMapping[str, Any]


def configure_logging(settings: LoggingSettings, *, service: str, stream: TextIO | None = None) -> None:
    """Send the lines of structlog and of the standard library to one stream, in one format.

    Args:
        settings: level and format.
        service: named in every line.
        stream: where lines go; standard error unless given.
    """
    lines = _Lines(stream if stream is not None else sys.stderr)
    console = settings.format == "console" or (settings.format == "auto" and lines.is_terminal)
    level = logging.getLevelNamesMapping()[settings.level.upper()]

    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        add_request_ids,
        mask_secrets,
    ]
    # A traceback becomes text only in `last`, and may quote a secret: it is masked as well. Local variables, where
    # request bodies and passwords are, never get into one.
    last: list[structlog.typing.Processor]
    if console:
        last = [
            structlog.processors.format_exc_info,
            mask_secrets,
            structlog.dev.ConsoleRenderer(colors=lines.is_terminal),
        ]
    else:
        last = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            mask_secrets,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(cast(TextIO, lines))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)


class _Lines:
    """Where lines go. A line that can't be written is lost: a full or closed log must not break who writes to it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = None if stream is None or stream.closed else stream
        self.is_terminal = self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.write(text)

    def flush(self) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """The structlog processor that replaces whatever is, or looks like, a credential by ``***``."""
    for key, value in event.items():
        if key in _NOT_TEXT_YET:
            continue
        event[key] = MASK if _SECRET_KEY.search(key) else _mask(value)
    return event


def _mask(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUE.sub(MASK, value)
    if isinstance(value, dict):
        return {key: MASK if _SECRET_KEY.search(str(key)) else _mask(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Whatever else it is, it will be text in the line: an exception may quote what it refused.
    return _SECRET_VALUE.sub(MASK, value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def _to_json(event: EventDict, **_options: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except UnicodeEncodeError:
        # A file name or header whose bytes were no UTF-8. A line that can't be written must not break its writer.
        return json.dumps(event, default=str)
