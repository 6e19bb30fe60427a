"""Fills a service through its API with definitions, and instances of them with a credential each;
or calls each instance once, so that all are in memory.

    seed.py make URL DEFINITIONS INSTANCES UPSTREAM
    seed.py call URL INSTANCES

The keys come from the environment, as for load.lua.
"""

import http.client
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import local
from urllib.parse import urlsplit

CALLERS = 8
KEPT = local()

url = urlsplit(sys.argv[2])


def post(path, body, content_type="application/json"):
    """Posts over the connection that this thread keeps."""
    if not hasattr(KEPT, "connection"):
        KEPT.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
    headers = {"Authorization": "Bearer " + os.environ["BENCH_KEY"], "Content-Type": content_type}
    KEPT.connection.request("POST", path, body, headers)
    answer = KEPT.connection.getresponse()
    content = answer.read()
    if answer.status not in (200, 201):
        raise SystemExit(f"{path} answered {answer.status}: {content.decode()}")


def call(instances):
    body = open(os.environ["BENCH_BODY"]).read()
    each(lambda number: post(f"/execute/i{number}/order", body), instances)


def make(definitions, instances, upstream):
    text = open("bench/definition.yaml").read()
    key = os.environ["BENCH_UPSTREAM_KEY"]
    data = {"key": key, "headerOrParam": "X-Upstream-Key", "inHeader": True}
    credential = json.dumps({"type": "api_key", "data": data})

    def define(number):
        definition = text.replace("id: bench\n", f"id: d{number}\n")
        post("/api/v1/integration-definitions?publish=true", definition, "application/yaml")

    def connect(number):
        instance = {
            "id": f"i{number}",
            "integrationDefinitionId": f"d{number % definitions}",
            "name": f"Shop {number}",
            "config": {"baseUrl": f"http://{upstream}"},
            "labels": {"region": f"r{number % 50}"},
        }
        post("/api/v1/integration-instances", json.dumps(instance))
        post(f"/api/v1/integration-instances/i{number}/credentials", credential)

    each(define, definitions)
    each(connect, instances)


def each(do, how_many):
    with ThreadPoolExecutor(CALLERS) as pool:
        for done, _ in zip(count(1), pool.map(do, range(how_many))):
            if done % 10_000 == 0:
                print(f"   {done:,} of {how_many:,}", file=sys.stderr)


if sys.argv[1] == "make":
    make(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
else:
    call(int(sys.argv[3]))
