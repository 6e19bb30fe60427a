"""The execute path as FastAPI and httpx would have it: a key is checked, params are read
into a model, the upstream is asked with its own key, its answer is read into a model.

No log row, event, rate limit, circuit breaker or retry: less work than the service does.
"""

import hmac
import os
import time
import uuid
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import httpx
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict, Field

UPSTREAM = os.environ["BENCH_UPSTREAM"]
KEY = os.environ["BENCH_KEY"]
UPSTREAM_KEY = os.environ["BENCH_UPSTREAM_KEY"]


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    orderId: int = Field(ge=1)
    customer: str = Field(min_length=1, max_length=64)
    email: str = Field(max_length=254)
    currency: Literal["EUR", "USD", "GBP"]
    amount: float = Field(ge=0)
    quantity: int = Field(ge=1, le=1000)
    express: bool
    tags: list[str] = Field(max_length=10)
    note: str | None = Field(default=None, max_length=500)
    country: str = Field(pattern="^[A-Z]{2}$")


class Execute(BaseModel):
    params: Params


class Item(BaseModel):
    model_config = ConfigDict(extra="allow")

    sku: str
    name: str
    price: float
    quantity: int


class Order(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: int
    status: str
    customer: dict
    items: list[Item]
    total: float


@asynccontextmanager
async def lifespan(app: FastAPI):
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx.AsyncClient(limits=limits, headers={"X-Upstream-Key": UPSTREAM_KEY}) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/execute/{instance}/{method}")
async def execute(instance: str, method: str, body: Execute, authorization: Annotated[str, Header()]):
    if not hmac.compare_digest(authorization, f"Bearer {KEY}"):
        raise HTTPException(401)
    started = time.monotonic()
    answer = await app.state.client.post(f"{UPSTREAM}/orders", json=body.params.model_dump())
    answer.raise_for_status()
    order = Order.model_validate_json(answer.content)
    return {
        "status": "SUCCESS",
        "data": order.model_dump(),
        "meta": {
            "executionId": str(uuid.uuid4()),
            "durationMs": int((time.monotonic() - started) * 1000),
            "attempts": 1,
            "cached": False,
        },
    }
