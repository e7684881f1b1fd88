"""An agent on a2a-sdk 0.3 that speaks JSON-RPC and REST; tells its URL on stdout.

Asked to count, it counts on with every line on stdin, and ends with the line "finish".
"""

import asyncio
import json
import socket
import sys

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.apps import A2ARESTFastAPIApplication, A2AStarletteApplication
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, TaskState
from a2a.utils import new_agent_text_message, new_task


class Answers(AgentExecutor):
    def __init__(self) -> None:
        self.counting: set[asyncio.Queue[str]] = set()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.get_user_input() == "count":
            await self.count(context, event_queue)
            return
        headers = context.call_context.state["headers"]
        spoken = {name: value for name, value in headers.items() if "a2a-" in name}
        await event_queue.enqueue_event(new_agent_text_message(json.dumps(spoken)))

    async def count(self, context: RequestContext, event_queue: EventQueue) -> None:
        turns: asyncio.Queue[str] = asyncio.Queue()
        self.counting.add(turns)
        task = new_task(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        number = 0
        while await turns.get() != "finish":
            number += 1
            await updater.update_status(TaskState.working, new_agent_text_message(str(number)))
        await updater.complete(new_agent_text_message("counted"))

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
        url=url,
        preferred_transport="JSONRPC",
        additional_interfaces=[
            AgentInterface(transport="JSONRPC", url=url),
            AgentInterface(transport="HTTP+JSON", url=url),
        ],
        capabilities=AgentCapabilities(streaming=True),
        supports_authenticated_extended_card=True,
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="count", name="count", description="counts", tags=["test"])],
    )


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    card, extended_card = agent_card(url, "counter"), agent_card(url, "extended counter")
    answers = Answers()
    handler = DefaultRequestHandler(answers, InMemoryTaskStore())
    app = A2ARESTFastAPIApplication(card, handler, extended_card).build()
    A2AStarletteApplication(card, handler, extended_card).add_routes_to_app(app)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(url, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answers.tell(line.strip())
    server.should_exit = True
    await serving


asyncio.run(main())
