"""Many requests at once, from a process of their own: whoever measures meanwhile is not held up by the clients.

python tests/helpers/burst.py URL COUNT       prints how often each status came, as JSON
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from pathlib import Path

import aiohttp


async def send(url: str, count: int) -> Counter[int]:
    async def one(number: int) -> int:
        prompt = [number % 50 + 10, 11]
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True, "stream": number % 2 == 0}
        async with http.post("/v1/completions", json=body) as answer:
            await answer.read()
            return answer.status

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as http:
        return Counter(await asyncio.gather(*map(one, range(count))))


async def burst(url: str, count: int) -> dict[int, int]:
    """Send them, and wait for all answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__)), url, str(count)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return {int(status): times for status, times in json.loads(out).items()}


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(send(sys.argv[1], int(sys.argv[2])))))
