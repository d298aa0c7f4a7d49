"""A browser without a window, which keeps cookies and says where it comes from, and workflows for it to look at."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

from stepwell import Retry, publish, receive, step, workflow

with warnings.catch_warnings():  # of the client that it would rather have; both are the same here
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TOKEN = "a token of at least sixteen"
VIEWER_TOKEN = "another token, to look only"


@step(name="ui.charge", retry=Retry(attempts=2, delay=0))
async def charge(order: str) -> dict[str, Any]:
    return {"order": order, "card": {"number": "4111"}, "cents": 2**63 + 1}


@step(name="ui.refuse", retry=Retry(attempts=2, delay=0))
def refuse(order: str) -> None:
    raise ValueError(f"no such address: {order}")


@workflow(name="ui.checkout")
async def checkout(order: str, note: str = "") -> dict[str, Any]:
    receipt = await charge(order)
    await asyncio.gather(charge(f"{order}, a"), charge(f"{order}, b"))
    await publish("state", {"note": note})
    if "bad" in order:
        await asyncio.to_thread(refuse, order)
    return receipt


@workflow(name="ui.approval")
async def approval(_order: str) -> bool:
    return await receive("approval", bool)


class Browser(TestClient):
    """Sends forms as the pages of the application have them."""

    def log_in(self, token: str = TOKEN, name: str = "ada") -> Browser:
        assert self.post("/login", data={"token": token, "name": name}).status_code == 200
        return self

    def form_token(self, page: str = "/runs") -> str:
        text: str = self.get(page).text
        return text.partition('name="form_token" value="')[2].partition('"')[0]

    def submit(self, address: str, **fields: str) -> Any:
        return self.post(address, data={"form_token": self.form_token(), **fields}, follow_redirects=False)


def browser(application: Any, **headers: str) -> Browser:
    """Return a browser in front of an application, at the address http://localhost."""
    return Browser(
        application,
        base_url="http://localhost",
        headers={"Origin": "http://localhost", **headers},
        follow_redirects=True,
    )
