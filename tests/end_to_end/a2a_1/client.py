"""A user's program on a2a-sdk 1.x: makes the calls that stdin orders, and tells what a user sees.

Orders and answers are JSON, a line each; every event is told when it comes.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
from a2a.client import Client, ClientCallContext, ClientConfig, create_client
from a2a.client.service_parameters import ServiceParametersFactory, with_a2a_extensions
from a2a.helpers import get_message_text, get_stream_response_text, new_text_message
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    Role,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskState,
)

Order = dict[str, str]
Seen = dict[str, object]


async def carry_out(order: Order) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        config = ClientConfig(
            httpx_client=http,
            streaming=order["do"] in ("stream", "watch"),
            polling=order["do"] == "start",
            supported_protocol_bindings=[order["binding"]],
        )
        async with await create_client(order["url"], config) as client:
            async for seen in OPERATIONS[order["do"]](client, order):
                tell(seen)


async def send(client: Client, order: Order) -> AsyncIterator[Seen]:
    request = SendMessageRequest(message=new_text_message(order["text"], role=Role.ROLE_USER))
    extended = ServiceParametersFactory.create([with_a2a_extensions(["urn:example:extension"])])
    context = ClientCallContext(service_parameters=extended)
    async for response in client.send_message(request, context=context):
        yield see(response)


async def get(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_task(await client.get_task(GetTaskRequest(id=order["task"])))


async def cancel(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_task(await client.cancel_task(CancelTaskRequest(id=order["task"])))


async def watch(client: Client, order: Order) -> AsyncIterator[Seen]:
    async for response in client.subscribe(SubscribeToTaskRequest(id=order["task"])):
        yield see(response)


async def card(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_card(client._card)  # what create_client resolved


async def extended_card(client: Client, order: Order) -> AsyncIterator[Seen]:
    yield see_card(await client.get_extended_agent_card(GetExtendedAgentCardRequest()))


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


def see(response: StreamResponse) -> Seen:
    text = get_stream_response_text(response)
    if response.HasField("task"):
        return see_task(response.task)
    if response.HasField("status_update"):
        update = response.status_update
        return {"text": text, "task": update.task_id, "state": state(update.status.state)}
    return {"text": text}


def see_task(task: Task) -> Seen:
    text = get_message_text(task.status.message)
    return {"text": text, "task": task.id, "state": state(task.status.state)}


def state(number: int) -> str:
    return TaskState.Name(number).removeprefix("TASK_STATE_").lower()


def see_card(card: AgentCard) -> Seen:
    return {"name": card.name, "urls": [each.url for each in card.supported_interfaces]}


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
