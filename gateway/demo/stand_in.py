"""An agent as A2A sees it: a real server of the a2a-sdk, and in the model's place a stand-in."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from a2a.helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, TaskState
from a2a.utils.constants import PROTOCOL_VERSION_CURRENT, TransportProtocol
from starlette.applications import Starlette

from gateway.demo.cast import Role
from gateway.supervisor import listen, url_of

HOST = "127.0.0.1"
THINKING_TIME_S = 0.8
SHUTDOWN_TIMEOUT_S = 1


class StandIn(AgentExecutor):
    """Takes a model's place: says prepared lines and counts what a model would have cost."""

    def __init__(self, role: Role) -> None:
        """Take the role."""
        self.role = role
        self.spent_cents = 0
        self._answers = itertools.cycle(role.answers)

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Answer a call."""
        self.spent_cents += self.role.call_cents
        if self.role.is_streaming:
            await self._stream(context, event_queue)
            return
        await event_queue.enqueue_event(new_text_message(next(self._answers)))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Nothing runs long enough here to be cancelled."""

    async def _stream(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None  # noqa: S101 - the SDK gives every call's message
        task = new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        *steps, result = self.role.answers
        for step in steps:
            await updater.update_status(TaskState.TASK_STATE_WORKING, new_text_message(step))
            await asyncio.sleep(THINKING_TIME_S)
        await updater.complete(new_text_message(result))


def agent_card(role: Role, url: str) -> AgentCard:
    """The agent's card, for who calls it at `url`."""
    interface = AgentInterface(
        url=url,
        protocol_binding=TransportProtocol.JSONRPC,
        protocol_version=PROTOCOL_VERSION_CURRENT,
    )
    skill = AgentSkill(id="answer", name="answer", description=role.question, tags=["demo"])
    return AgentCard(
        name=role.name,
        description="An agent of the gateway's demo, with no model behind it.",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=role.is_streaming),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[skill],
    )


@asynccontextmanager
async def serve_agent(stand_in: StandIn) -> AsyncIterator[str]:
    """The agent on a free port of this machine, in this process: it cannot outlive us."""
    listener = listen(HOST, 0)
    url = f"{url_of(listener)}/"
    card = agent_card(stand_in.role, url)
    handler = DefaultRequestHandler(stand_in, InMemoryTaskStore(), card)
    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]
    server = Server(
        uvicorn.Config(
            Starlette(routes=routes),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield url
    finally:
        server.should_exit = True
        await serving
        await handler.aclose()


class Server(uvicorn.Server):
    """uvicorn, but signals stay with the demo."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
