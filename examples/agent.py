"""An agent: a model is asked what to do, its tools are called as steps, a person says yes first where it matters.

    python examples/agent.py [agent.db]

What the model says is streamed, token by token. Each of its answers and each call of a tool is recorded once: kill the
process wherever you like, and start it again. The model here is a stand-in that is asked nothing over the network.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import stepwell
from stepwell import Engine, Form, Retry, run_step, step, stream, workflow

#: What the model was told and what it wants, by turns.
Talk = list[dict[str, Any]]


async def ask_model(talk: Talk) -> AsyncIterator[str]:
    """Stand in for a model: it looks the order up, wants to refund it, and says so."""
    said = [turn["tool"] for turn in talk if "tool" in turn]
    if "look_up" not in said:
        answer = 'call look_up "order-42"'
    elif "refund" not in said:
        answer = 'call refund "order-42"'
    else:
        answer = f"Order-42: {talk[-1]['result']}."
    for token in answer.split(" "):
        yield token


def look_up(order: str) -> str:
    """Return what is known of an order."""
    return f"{order} arrived broken"


def refund(order: str) -> str:
    """Give the money back."""
    return f"{order} is refunded"


TOOLS: dict[str, Callable[[str], str]] = {"look_up": look_up, "refund": refund}
#: These cost money: a person is asked first.
ASK_FIRST = {"refund"}


@step(retry=Retry(attempts=3))
async def think(talk: Talk) -> str:
    """Ask the model, and stream what it says while it says it."""
    tokens = stream("tokens", str)
    said: list[str] = []
    async for token in ask_model(talk):
        await tokens.write(token)
        said.append(token)
    return " ".join(said)


@workflow
async def agent(question: str) -> str:
    """Talk with the model until it answers."""
    talk: Talk = [{"user": question}]
    while True:
        answer = await think(talk)
        if not answer.startswith("call "):
            return answer
        _, name, argument = answer.split(" ", 2)
        talk.append({"tool": name, "result": await call_tool(name, argument.strip('"'))})


async def call_tool(name: str, argument: str) -> str:
    """Call a tool that the model wants, if nobody says no."""
    if name in ASK_FIRST:
        allowed = stepwell.promise(
            bool, timeout=24 * 3600, default=False, form=Form(title=f"May the agent {name} {argument!r}?")
        )
        if not await allowed:
            return "a person said no"
    # A closure, written where it is called: tools of a framework need not be registered.
    return await run_step(name, lambda: TOOLS[name](argument), summary=argument, type=str)


def main(path: str) -> None:
    """Start the agent, answer what it asks, and print what it says."""
    with Engine(path) as engine:
        run = engine.start(agent, "What about my order?", id="talk-1")
        while not engine.promises() and run.info().ended_at is None:
            time.sleep(0.02)  # a program of yours is told by whoever has to say yes
        for asked in engine.promises():
            engine.resolve(asked.token, True)
        print(run.result(timeout=60))
        print(" ".join(run.stream("tokens", str)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"{folder}/agent.db")
