"""An agent on a2a-sdk 1.x that speaks 1.0 and 0.3, JSON-RPC and REST; tells its URL on stdout.

Asked to count, it counts on with every line on stdin, and ends with the line "finish".
"""

import asyncio
import json
import socket
import sys

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import (
    create_agent_card_routes,
    create_jsonrpc_routes,
    create_rest_routes,
)
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, TaskState
from starlette.applications import Starlette


class Answers(AgentExecutor):
    def __init__(self) -> None:
        self.counting: set[asyncio.Queue[str]] = set()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.get_user_input() == "count":
            await self.count(context, event_queue)
            return
        headers = context.call_context.state["headers"]
        spoken = {name: value for name, value in headers.items() if "a2a-" in name}
        await event_queue.enqueue_event(new_text_message(json.dumps(spoken)))

    async def count(self, context: RequestContext, event_queue: EventQueue) -> None:
        turns: asyncio.Queue[str] = asyncio.Queue()
        self.counting.add(turns)
        task = new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        number = 0
        while await turns.get() != "finish":
            number += 1
            await updater.update_status(TaskState.TASK_STATE_WORKING, new_text_message(str(number)))
        await updater.complete(new_text_message("counted"))

    def tell(self, line: str) -> None:
        # All that count hear it: one that a failed test has left behind takes nobody's turn.
        for turns in self.counting:
            turns.put_nowait(line)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def agent_card(url: str, name: str) -> AgentCard:
    return AgentCard(
        name=name,
        description="Counts, and tells which A2A headers reached it.",
        version="1",
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding=binding, protocol_version=version)
            for version in ("1.0", "0.3")
            for binding in ("JSONRPC", "HTTP+JSON")
        ],
        capabilities=AgentCapabilities(streaming=True, extended_agent_card=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="count", name="count", description="counts", tags=["test"])],
    )


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    card, extended_card = agent_card(url, "counter"), agent_card(url, "extended counter")
    answers = Answers()
    handler = DefaultRequestHandler(
        answers, InMemoryTaskStore(), card, extended_agent_card=extended_card
    )
    routes = [
        *create_agent_card_routes(card),
        *create_jsonrpc_routes(handler, "/", enable_v0_3_compat=True),
        *create_rest_routes(handler, enable_v0_3_compat=True),
    ]
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes), log_level="warning", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(url, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers.tell(line.strip())
    server.should_exit = True
    await serving


asyncio.run(main())
