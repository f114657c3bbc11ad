"""A request of the API, read at the speed of its handlers."""

from __future__ import annotations

from functools import cached_property

from starlette.requests import Request

from service.errors import TooLarge, UnreadableBody


class Call(Request):
    """Starlette's request, its header fields and its body read in one go."""

    @cached_property
    def fields(self) -> dict[bytes, bytes]:
        """Header fields by lower-case name; those that came several times are joined (RFC 9110, section 5.3)."""
        headers = self.scope["headers"]
        fields: dict[bytes, bytes] = dict(headers)
        if len(fields) < len(headers):
            fields = {name: b", ".join(value for other, value in headers if other == name) for name in fields}
        return fields

    def field(self, name: bytes) -> str:
        """A header field, empty where it did not come."""
        return self.fields.get(name, b"").decode("latin-1")

    @property
    def media_type(self) -> str:
        """That of the body, lower case, without parameters; empty where it did not come."""
        return self.field(b"content-type").partition(";")[0].strip().lower()

    async def read(self, limit: int) -> bytes:
        """The body; raises TooLarge for one of more than `limit` bytes, from its declared length where it has one."""
        length = self.fields.get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0
        chunks: list[bytes] = []
        came, more = 0, True
        while more and max(declared, came) <= limit:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise UnreadableBody("The caller hung up before the body was whole.")
            chunks.append(message.get("body", b""))
            came += len(chunks[-1])
            more = message.get("more_body", False)
        if max(declared, came) > limit:
            raise TooLarge(f"The body is larger than the {limit} bytes that are taken.")
        return b"".join(chunks)
