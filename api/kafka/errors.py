"""Errors of the Kafka door alone. A leaf of `api.kafka`."""

from __future__ import annotations

from logstore.errors import LogstoreError


class FrameError(LogstoreError):
    """Bytes after which nothing of their connection can be trusted: answer nothing, close it."""


class FrameTooLarge(FrameError):
    """A request above `socket.request.max.bytes`."""


class MalformedMessage(FrameError):
    """Bytes that are not the message their header promises."""


class UnsupportedRequest(FrameError):
    """An API key, or a version of one, that ApiVersions does not advertise."""
