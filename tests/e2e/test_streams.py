"""Many streams at once: none is lost, none is mixed up, and the KV cache is empty afterwards."""

from __future__ import annotations

import anyio
import openai
import pytest
from helpers.cluster import Cluster

pytestmark = [pytest.mark.real_model, pytest.mark.anyio, pytest.mark.timeout(900)]


async def stream(client: openai.AsyncOpenAI, number: int) -> str:
    chunks = await client.completions.create(
        model="smollm2-135m-instruct",
        prompt=f"Count: {number}, {number + 1}, {number + 2},",
        max_tokens=24,
        temperature=0,
        stream=True,
    )
    text, finish = "", None
    async for chunk in chunks:
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "length"
    return text


async def ask_64(client: openai.AsyncOpenAI) -> dict[int, str]:
    """64 streams at once; number -> answer."""
    answers: dict[int, str] = {}

    async def ask(number: int) -> None:
        answers[number] = await stream(client, number)

    async with anyio.create_task_group() as tasks:
        for i in range(64):
            tasks.start_soon(ask, 10 * i)
    assert len(answers) == 64
    return answers


def used_blocks(cluster: Cluster) -> dict[str, int]:
    return {s["name"]: s["stats"]["num_used_blocks"] for s in cluster.status()["servers"] if s["role"] != "proxy"}


async def until_unused(cluster: Cluster) -> None:
    with anyio.move_on_after(60):
        while any(used_blocks(cluster).values()):
            await anyio.sleep(0.2)
    assert not any(used_blocks(cluster).values()), cluster.status()


async def test_64_at_once(cluster: Cluster, num_rounds: int) -> None:
    async with openai.AsyncOpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0) as client:
        alone = {n: await stream(client, n) for n in (0, 310, 630)}
        for _ in range(num_rounds):
            answers = await ask_64(client)
            assert {n: answers[n] for n in alone} == alone
            for number, text in answers.items():
                assert str(number + 3) in text, f"{number} got {text!r}"

    await until_unused(cluster)


async def test_a_client_that_leaves_frees_both_sides(cluster: Cluster) -> None:
    async with openai.AsyncOpenAI(base_url=cluster.url + "/v1", api_key="-", max_retries=0) as client:
        chunks = await client.completions.create(
            model="smollm2-135m-instruct", prompt="Tell me all.", max_tokens=1500, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        async for _ in chunks:
            break
        await chunks.close()
    await until_unused(cluster)
