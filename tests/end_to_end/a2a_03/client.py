"""A user's program on a2a-sdk 0.3: makes the calls that stdin orders, and tells what a user sees.

Orders and answers are JSON, a line each; every event is told when it comes.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
from a2a.client import Client, ClientConfig, ClientFactory, create_text_message_object
from a2a.types import AgentCard, Message, Task, TaskIdParams, TaskQueryParams
from a2a.utils import get_message_text

Order = dict[str, str]
Seen = dict[str, object]


async def carry_out(order: Order) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        config = ClientConfig(
            httpx_client=http,
            streaming=order["do"] in ("stream", "watch"),
            polling=order["do"] == "start",
            supported_transports=[order["binding"]],
            extensions=["urn:example:extension"],
        )
        client = await ClientFactory.connect(order["url"], config)
        async for seen in OPERATIONS[order["do"]](client, order):
            tell(seen)


async def send(client: Client, order: Order) -> AsyncIterator[Seen]:
    async for event in client.send_message(create_text_message_object(content=order["text"])):
        yield see_message(event) if isinstance(event, Message) else see_task(event[0])


async def get(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_task(await client.get_task(TaskQueryParams(id=order["task"])))


async def cancel(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_task(await client.cancel_task(TaskIdParams(id=order["task"])))


async def watch(client: Client, order: Order) -> AsyncIterator[Seen]:
    async for task, _ in client.resubscribe(TaskIdParams(id=order["task"])):
        yield see_task(task)


async def card(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_card(client._card)  # what connect resolved


async def extended_card(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_card(await client.get_card())


OPERATIONS = {
    "send": send,
    "stream": send,
    "start": send,
    "get": get,
    "cancel": cancel,
    "watch": watch,
    "card": card,
    "extended card": extended_card,
}


def see_message(message: Message) -> Seen:
    return {"text": get_message_text(message)}


def see_task(task: Task) -> Seen:
    message = task.status.message
    text = get_message_text(message) if message else ""
    return {"text": text, "task": task.id, "state": task.status.state.value}


def see_card(card: AgentCard) -> Seen:
    others = [each.url for each in card.additional_interfaces or []]
    return {"name": card.name, "urls": [card.url, *others]}


def failure(error: Exception) -> Seen:
    """The error, the log's view of it, and what a user who knows httpx finds below it."""
    seen: Seen = {"error": str(error), "traceback": "".join(traceback.format_exception(error))}
    if isinstance(error.__cause__, httpx.HTTPStatusError):
        seen["status"] = error.__cause__.response.status_code
        with suppress(httpx.ResponseNotRead):
            seen["answer"] = error.__cause__.response.json()
    return seen


def tell(seen: Seen) -> None:
    print(json.dumps(seen), flush=True)


for line in sys.stdin:
    try:
        asyncio.run(carry_out(json.loads(line)))
        tell({"end": "answered"})
    except Exception as error:
        tell({"end": "failed", **failure(error)})
