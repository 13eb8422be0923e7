"""Requests events from an engine with docker-py. tests/real/clients.rs describes the arguments."""

import json
import sys

import docker

client = docker.from_env()
decode = sys.argv[1] == "decoded"
for arg in sys.argv[2:]:
    query = json.loads(arg)
    try:
        for event in client.events(decode=decode, **query):
            # Without decoding, an event is the bytes of one chunk.
            print(json.dumps(event, ensure_ascii=False) if decode else event.decode().removesuffix("\n"), flush=True)
    except docker.errors.APIError as error:
        print("refused:", error.status_code, error.explanation)
    print(flush=True)
