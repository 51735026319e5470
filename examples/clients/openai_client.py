"""Asks a cluster with the openai package (`pip install openai`), streamed.

python examples/clients/openai_client.py "What is the capital of France?"
"""

from __future__ import annotations

import argparse

import openai

parser = argparse.ArgumentParser(description="Asks a cluster, and prints the answer as it comes.")
parser.add_argument("question")
parser.add_argument("--url", default="http://localhost:8000/v1")
args = parser.parse_args()

with openai.OpenAI(base_url=args.url, api_key="none") as client:
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": args.question}],
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
