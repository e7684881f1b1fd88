"""The callers: real A2A clients of the a2a-sdk, which reach the agents through the gateway."""

import asyncio

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import get_stream_response_text, new_text_message
from a2a.types import Role as Speaker
from a2a.types import SendMessageRequest, StreamResponse, TaskState
from a2a.utils.errors import A2AError

from gateway.core import denial
from gateway.demo.board import Board, Kind
from gateway.demo.cast import Role
from gateway.demo.stand_in import agent_card

ANSWER_TIMEOUT_S = 30.0
# Who was refused looks again a little later, which is soon enough to see a limit being raised.
PAUSE_AFTER_REFUSAL_S = 3.0


async def run_caller(role: Role, gateway_url: str, board: Board) -> None:
    """Call an agent until cancelled."""
    card = agent_card(role, f"{gateway_url}/workspaces/{role.workspace_id}/a2a")
    async with httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, trust_env=False) as http:
        client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
        while True:
            kind = await _call(client, role, board)
            is_refused = kind is Kind.REFUSED
            await asyncio.sleep(PAUSE_AFTER_REFUSAL_S if is_refused else role.pause_s)


async def _call(client: Client, role: Role, board: Board) -> Kind:
    try:
        kind, text = Kind.PASSED, await _converse(client, role, board)
    except A2AError as error:
        kind, text = _refusal(error)
    board.tell(role.name, kind, text)
    return kind


async def _converse(client: Client, role: Role, board: Board) -> str:
    """Ask, and return the last thing that was said; what a stream says before is shown at once."""
    message = new_text_message(role.question, role=Speaker.ROLE_USER)
    said = ""
    async for response in client.send_message(SendMessageRequest(message=message)):
        said = get_stream_response_text(response)
        if said and not _is_last(response):
            board.tell(role.name, Kind.TOLD, f"streams: {said}")
    return said


def _is_last(response: StreamResponse) -> bool:
    is_completed = response.status_update.status.state == TaskState.TASK_STATE_COMPLETED
    return response.HasField("message") or is_completed


def _refusal(error: A2AError) -> tuple[Kind, str]:
    """The status and the message of a call that failed.

    The SDK raises its own error for any HTTP error status and keeps the answer in the cause. The
    refusal's body is in the form the call was made in, here JSON-RPC.
    """
    cause = error.__cause__
    if not isinstance(cause, httpx.HTTPStatusError):
        return Kind.FAILED, str(error)
    status = cause.response.status_code
    if status != denial.STATUS:
        return Kind.FAILED, f"HTTP {status} {cause.response.text}"
    return Kind.REFUSED, f"HTTP {status} {cause.response.json()['error']['message']}"
