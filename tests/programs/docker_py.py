"""Asks an engine for events with docker-py; see tests/real/clients.rs for its arguments."""

import json
import sys

import docker

client = docker.from_env()
decode = sys.argv[1] == "decoded"
for word in sys.argv[2:]:
    asked = json.loads(word)
    try:
        for event in client.events(decode=decode, **asked):
            # Undecoded, it is the bytes of a chunk.
            print(json.dumps(event, ensure_ascii=False) if decode else event.decode().removesuffix("\n"), flush=True)
    except docker.errors.APIError as error:
        print("refused:", error.status_code, error.explanation)
    print(flush=True)
