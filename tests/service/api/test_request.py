import asyncio

import pytest
from starlette.types import Message

from service.api.request import Request
from service.errors import TooLarge


def test_a_body_that_came_whole_is_not_asked_for() -> None:
    async def receive() -> Message:
        raise AssertionError("There is nothing to wait for.")

    call = Request({"headers": [(b"content-length", b"2")], "whole_body": b"[]"}, receive)
    assert not call.awaits_body
    assert asyncio.run(call.read(2)) == b"[]"
    with pytest.raises(TooLarge):
        asyncio.run(call.read(1))
