"""Sends the prompts of a file through a cluster, all at once, and writes the answers in order.

python examples/clients/disagg_client.py -c cluster.yaml -p prompts.json -e chat --streaming -o answers.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from trtdisagg.config.load import load
from trtdisagg.errors import ConfigError


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sends prompts through a cluster, all at once.")
    parser.add_argument("-c", "--config", type=Path, required=True, help="cluster file")
    parser.add_argument("-p", "--prompts", type=Path, required=True, help="JSON array of prompts")
    parser.add_argument("-e", "--endpoint", choices=["completions", "chat"], default="completions")
    parser.add_argument("--streaming", action="store_true", help="take each answer as a stream")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("-o", "--output", type=Path, help="file for the answers; otherwise they are printed")
    return parser.parse_args()


class Client:
    """One model of a cluster, asked over one of its two endpoints."""

    def __init__(self, session: aiohttp.ClientSession, model: str, args: argparse.Namespace) -> None:
        self._session = session
        self._chat = args.endpoint == "chat"
        self._path = "/v1/chat/completions" if self._chat else "/v1/completions"
        self._fields = {
            "model": model,
            "max_tokens": args.max_tokens,
            "temperature": args.temperature,
            "stream": args.streaming,
        }

    async def ask(self, prompt: str) -> str:
        what = {"messages": [{"role": "user", "content": prompt}]} if self._chat else {"prompt": prompt}
        async with self._session.post(self._path, json={**self._fields, **what}) as answer:
            if answer.status != 200:
                sys.exit(f"{answer.status}: {await answer.text()}")
            if not self._fields["stream"]:
                return self._text(await answer.json(), "message")
            return "".join([self._text(chunk, "delta") async for chunk in events(answer)])

    def _text(self, body: dict[str, Any], part: str) -> str:
        choices = body["choices"]
        if not choices:  # the chunk that carries usage
            return ""
        return (choices[0][part].get("content") if self._chat else choices[0]["text"]) or ""


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream of server-sent events."""
    async for line in answer.content:
        data = line.strip().removeprefix(b"data: ")
        if data == b"[DONE]":
            return
        if data:
            chunk = json.loads(data)
            if "error" in chunk:
                sys.exit(f"the stream broke: {chunk['error']['message']}")
            yield chunk
    sys.exit("the stream ended before its end")


async def run(args: argparse.Namespace) -> list[str]:
    cluster = load(args.config).cluster
    prompts = json.loads(args.prompts.read_text())
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    async with aiohttp.ClientSession(f"http://{cluster.hostname}:{cluster.port}", timeout=timeout) as session:
        model = cluster.served_model_name or await first_model(session)
        client = Client(session, model, args)
        return await asyncio.gather(*(client.ask(prompt) for prompt in prompts))


async def first_model(session: aiohttp.ClientSession) -> str:
    """A file may name a model by path, or not at all: the cluster knows what clients call it."""
    async with session.get("/v1/models") as answer:
        answer.raise_for_status()
        model: str = (await answer.json())["data"][0]["id"]
        return model


def main() -> None:
    args = options()
    try:
        answers = asyncio.run(run(args))
    except (ConfigError, OSError, aiohttp.ClientError) as e:
        sys.exit(str(e))
    text = json.dumps(answers, indent=4, ensure_ascii=False) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
