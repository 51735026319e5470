"""Two transceivers in one process: who holds what until when, and what a fetch may be trusted with."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading

import msgspec
import pytest
import torch
from helpers.kv import LAYOUT, SOMEBODY, GatedTransport, server
from helpers.waiting import until

from trtdisagg.cache.greeting import introduce
from trtdisagg.cache.streams import PeerLostError, PeerStream
from trtdisagg.cache.transports.local import LocalTransport
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.peers import FromContext, Hello

pytestmark = pytest.mark.anyio

DECODER = msgspec.msgpack.Decoder(FromContext)
HELLO = Hello(me=SOMEBODY, proof=b"")


async def test_blocks_arrive_and_are_released_once() -> None:
    async with server("context-0", seed=1) as context, server("generation-0", seed=2) as generation:
        ticket = context.hold(7, [5, 6, 9, 2], num_tokens=14)
        assert context.transceiver.stats().num_held_blocks == 4
        claim = await generation.transceiver.claim(ticket)
        assert generation.transceiver.stats().num_claims == 1
        await claim.fetch([1, 2, 3, 0])
        assert torch.equal(generation.pool.tensor[[1, 2, 3, 0]], context.pool.tensor[[5, 6, 9, 2]])
        assert not torch.equal(generation.pool.tensor[4], context.pool.tensor[4])

        claim.release()
        await context.releases.wait(7)
        stats = generation.transceiver.stats()
        assert (stats.num_claims, stats.num_transfers_total, stats.num_transfer_failures_total) == (0, 1, 0)
        assert stats.num_transfer_bytes_total == 4 * context.pool.block_bytes
        assert stats.transfer_seconds_total > 0
        assert context.transceiver.stats().num_held_blocks == 0
    assert context.releases.counts == {7: 1}


async def test_what_comes_next_is_made_ready_by_a_thread_that_gives_way() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    async with server("context-0", seed=1) as context, server("generation-0") as generation:
        await (await generation.transceiver.claim(context.hold(1, [5]))).fetch([1])
        [warming] = [thread for thread in threading.enumerate() if thread.name.startswith("kv-warm")]
        assert warming.native_id is not None
        tid = warming.native_id
        until(lambda: os.getpriority(os.PRIO_PROCESS, tid) == 19, "it gives way", timeout_s=10)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


async def test_many_requests_share_one_connection() -> None:
    async with server("context-0", seed=1) as context, server("generation-0") as generation:
        tickets = [context.hold(i, [2 * i, 2 * i + 1]) for i in range(10)]
        claims = await asyncio.gather(*map(generation.transceiver.claim, tickets))
        await asyncio.gather(*(c.fetch([31 - b for b in c.ticket.blocks]) for c in claims))
        assert torch.equal(generation.pool.tensor[12:].flip(0), context.pool.tensor[:20])
        for i in range(10):
            await context.releases.wait(i)
    assert set(context.releases.counts.values()) == {1}


async def test_other_block_sizes() -> None:
    small = msgspec.structs.replace(LAYOUT, tokens_per_block=2)
    async with server("context-0", seed=1) as context, server("generation-0", layout=small) as generation:
        claim = await generation.transceiver.claim(context.hold(1, [3, 8], num_tokens=7))
        await claim.fetch([4, 0, 1, 2])
        theirs, mine = context.pool.tensor[[3, 8]], generation.pool.tensor[[4, 0, 1, 2]]
        # [blocks, layers, heads, k|v, tokens, values] -> tokens first
        assert torch.equal(
            mine.permute(0, 4, 1, 2, 3, 5).flatten(0, 1)[:7], theirs.permute(0, 4, 1, 2, 3, 5).flatten(0, 1)[:7]
        )


async def test_a_ticket_of_this_very_server() -> None:
    async with server("both-0", seed=1) as both:
        claim = await both.transceiver.claim(both.hold(1, [3, 4]))
        await claim.fetch([8, 9])
        assert torch.equal(both.pool.tensor[[8, 9]], both.pool.tensor[[3, 4]])
        await both.releases.wait(1)


async def test_a_lease_that_nobody_claims_ends() -> None:
    async with server("context-0", lease_ms=50) as context, server("generation-0") as generation:
        ticket = await asyncio.to_thread(context.hold, 1, [3])  # as the engine's thread does
        await context.releases.wait(1)
        claim = await generation.transceiver.claim(ticket)
        with pytest.raises(HandoverError, match="context-0 no longer held the KV"):
            await claim.fetch([0])
        assert generation.transceiver.stats().num_transfer_failures_total == 1
    assert context.releases.counts == {1: 1}


async def test_withdrawn_blocks_are_free_at_once_and_nobody_else_is_hurt() -> None:
    async with server("context-0", seed=1) as context, server("generation-0") as generation:
        kept, withdrawn = context.hold(1, [3]), context.hold(2, [4])
        await asyncio.to_thread(context.transceiver.withdraw, withdrawn)  # as the engine's thread does
        assert context.releases.counts == {2: 1}
        context.transceiver.withdraw(withdrawn)
        await (await generation.transceiver.claim(kept)).fetch([0])
        with pytest.raises(HandoverError, match="no longer held"):
            await (await generation.transceiver.claim(withdrawn)).fetch([1])
    assert context.releases.counts == {1: 1, 2: 1}


async def test_a_claim_keeps_the_lease_alive() -> None:
    async with server("context-0", seed=1, lease_ms=1000) as context, server("generation-0") as generation:
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        for request_id in (10, 11):  # each takes a whole lease
            context.hold(request_id, [4])
            await context.releases.wait(request_id)
        await claim.fetch([0])
        assert torch.equal(generation.pool.tensor[0], context.pool.tensor[3])
    assert context.releases.counts[1] == 1


async def test_released_blocks_are_free_at_once() -> None:
    async with server("context-0") as context, server("generation-0") as generation:
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        claim.release()
        claim.release()
        await context.releases.wait(1)
    assert context.releases.counts == {1: 1}


async def test_what_was_given_back_during_a_read_is_not_valid() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as slow,
        server("generation-1", transports=[gate]) as other,
    ):
        ticket = context.hold(1, [3])
        fetch = asyncio.create_task((await slow.transceiver.claim(ticket)).fetch([0]))
        await gate.begun()
        (await other.transceiver.claim(ticket)).release()
        await context.releases.wait(1)
        gate.may_end.set()
        with pytest.raises(HandoverError, match="no longer held"):
            await fetch


async def test_a_request_id_used_again_does_not_make_old_reads_valid() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        claim.release()
        await context.releases.wait(1)
        old = asyncio.create_task((await generation.transceiver.claim(claim.ticket)).fetch([0]))
        await gate.begun()
        context.hold(1, [4])
        gate.may_end.set()
        with pytest.raises(HandoverError, match="no longer held"):
            await old


async def test_a_peer_that_is_lost_frees_what_it_claimed() -> None:
    async with server("context-0") as context:
        async with server("generation-0") as generation:
            await generation.transceiver.claim(context.hold(1, [3]))
            await generation.transceiver.claim(context.hold(2, [4]))
            context.hold(3, [5])
        await context.releases.wait(1)
        await context.releases.wait(2)
        assert 3 not in context.releases.counts
    assert context.releases.counts == {1: 1, 2: 1, 3: 1}  # and the end frees the rest


async def test_a_context_server_that_ends_fails_its_claims() -> None:
    gate = GatedTransport()
    async with server("generation-0", transports=[gate]) as generation:
        async with server("context-0", transports=[gate]) as context:
            claim = await generation.transceiver.claim(context.hold(1, [3]))
            fetch = asyncio.create_task(claim.fetch([0]))
            await gate.begun()
        assert context.releases.counts == {1: 1}
        gate.may_end.set()
        with pytest.raises(HandoverError, match="context-0"):
            await fetch
        with pytest.raises(HandoverError, match="the server ends"):
            context.hold(2, [3])
        with pytest.raises(HandoverError, match="cannot be reached at"):
            await generation.transceiver.claim(claim.ticket)


async def test_a_claim_that_meets_our_end_is_told() -> None:
    async with server("context-0") as context:
        async with server("generation-0") as generation:
            claiming = asyncio.create_task(generation.transceiver.claim(context.hold(1, [3])))
            await asyncio.sleep(0)  # it has asked for a connection, whose task has not begun
        with pytest.raises(HandoverError, match="the server ends"):
            await claiming
        with pytest.raises(HandoverError, match="the server ends"):
            await generation.transceiver.claim(context.hold(2, [3]))


async def test_a_server_started_anew_is_not_taken_for_the_old_one() -> None:
    async with server("generation-0") as generation:
        async with server("context-0") as old:
            ticket = old.hold(1, [3])
        async with server("context-0", incarnation="context-0#2", port=ticket.port) as new:
            new.hold(1, [3])
            with pytest.raises(HandoverError, match="started anew since then"):
                await generation.transceiver.claim(ticket)
            assert new.releases.counts == {}


async def test_a_server_is_met_before_there_is_a_ticket() -> None:
    gate = GatedTransport()
    gate.may_end.set()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        linked = await generation.transceiver.meet(context.address)
        assert (linked.server, linked.incarnation, linked.error) == ("context-0", "context-0#1", None)
        assert (linked.transport, linked.direction) == ("local", "pull")
        assert await generation.transceiver.meet(context.address) == linked
        gate.connect_error = "no more"  # who has met it connects no more
        await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])


async def test_who_cannot_be_met_is_told_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    other = msgspec.structs.replace(LAYOUT, dtype="bfloat16")
    async with server("context-0", layout=other) as context, server("generation-0") as generation:
        linked = await generation.transceiver.meet(context.address)
        assert "dtype is float32 here and bfloat16 there" in (linked.error or "")
        assert (linked.server, linked.transport) == ("context-0", "")
    assert "no KV can come from context-0" in caplog.text
    assert "generation-0 was refused: the KV caches do not fit together" in caplog.text
    async with server("generation-0") as generation:
        assert "cannot be reached" in ((await generation.transceiver.meet(context.address)).error or "")


async def test_a_peer_that_is_gone_frees_at_once_what_it_had_claimed_or_was_to_claim() -> None:
    async with server("context-0") as context, server("generation-0") as generation, server("generation-1") as other:
        for peer in (generation, other):
            await peer.transceiver.meet(context.address)
        await generation.transceiver.claim(context.hold(1, [3]))
        context.hold(2, [4], reader="generation-0")
        context.hold(3, [5], reader="generation-1")
        context.hold(4, [6])
        await generation.transceiver.claim(context.hold(5, [7], reader="generation-1"))
        await (await other.transceiver.claim(context.hold(6, [8], reader="generation-0"))).fetch([0])
        await context.releases.wait(6)
        context.transceiver.gone("generation-0#1")
        assert context.releases.counts == {1: 1, 2: 1, 5: 1, 6: 1}
        context.transceiver.gone("generation-0#1")
        linked = await generation.transceiver.meet(context.address)  # what is gone does not come back
        assert linked.error is None or "lost" in linked.error
        with pytest.raises(HandoverError):
            await (await generation.transceiver.claim(context.hold(7, [9]))).fetch([0])
        stats = context.transceiver.stats()
        assert (stats.num_unread_holds_total, stats.num_expired_leases_total) == (3, 0)


async def test_a_peer_that_is_gone_fails_its_claims_at_once() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        claims = [await generation.transceiver.claim(context.hold(i, [3])) for i in (1, 2)]
        fetch = asyncio.create_task(claims[0].fetch([0]))
        await gate.begun()
        generation.transceiver.gone("context-0#1")
        await gate.aborted()
        assert not fetch.done()  # it may still write
        with pytest.raises(HandoverError, match="it has ended"):
            await claims[1].fetch([1])
        gate.may_end.set()
        with pytest.raises(HandoverError, match="it has ended"):
            await fetch
        for _ in range(2):
            with pytest.raises(HandoverError, match=r"context-0 \(context-0#1\) has ended"):
                await generation.transceiver.claim(context.hold(3, [3]))


async def test_a_peer_that_is_gone_while_it_is_met() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        gate.may_connect.clear()
        meeting = asyncio.create_task(generation.transceiver.meet(context.address))
        await gate.connecting()
        generation.transceiver.gone("context-0#1")
        assert "has ended" in ((await meeting).error or "")
        gate.may_connect.set()
    assert gate.num_closes == 1


async def test_a_ticket_that_nobody_will_use_is_given_back() -> None:
    async with server("context-0") as context, server("generation-0") as generation:
        generation.transceiver.release(context.hold(1, [3]))
        await context.releases.wait(1)
        context.transceiver.release(context.hold(2, [3]))  # its own
        assert context.releases.counts == {1: 1, 2: 1}
        claimed = context.hold(3, [3])
        claim = await generation.transceiver.claim(claimed)
        generation.transceiver.release(claimed)
        await claim.fetch([0])  # what is claimed is not given back behind its back
        await context.releases.wait(3)
    generation.transceiver.release(claimed)  # it is closed
    assert context.releases.counts == {1: 1, 2: 1, 3: 1}


async def test_a_wrong_secret_is_refused() -> None:
    async with server("context-0", secret=b"right") as context, server("generation-0", secret=b"wrong") as generation:
        with pytest.raises(HandoverError, match="refused: the secret is not this cluster's"):
            await generation.transceiver.claim(context.hold(1, [3]))
    async with server("context-0", secret=b"right") as context, server("generation-0", secret=b"right") as generation:
        await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])


async def test_kv_that_does_not_fit_is_refused_by_name() -> None:
    other = msgspec.structs.replace(LAYOUT, dtype="bfloat16", num_kv_heads=1)
    async with server("context-0", layout=other) as context, server("generation-0") as generation:
        with pytest.raises(HandoverError) as caught:
            await generation.transceiver.claim(context.hold(1, [3]))
    assert "dtype is float32 here and bfloat16 there" in caught.value.message
    assert "num_kv_heads is 2 here and 1 there" in caught.value.message


async def test_a_cancelled_fetch_ends_when_its_copy_does() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        fetch = asyncio.create_task(claim.fetch([0]))
        await gate.begun()
        for _ in range(2):  # asking twice does not help
            fetch.cancel()
            await asyncio.wait([fetch], timeout=0.02)
        assert not fetch.done()
        gate.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert gate.num_reads == 1
        await context.releases.wait(1)
        assert generation.transceiver.stats().num_transfer_failures_total == 0


async def test_a_copy_that_takes_too_long_fails_when_nothing_is_written_any_more() -> None:
    gate = GatedTransport()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate], transfer_timeout_ms=50) as generation,
    ):
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        fetch = asyncio.create_task(claim.fetch([0]))
        await gate.aborted()
        await asyncio.wait([fetch], timeout=0.02)
        assert not fetch.done()
        gate.may_end.set()
        with pytest.raises(HandoverError, match=r"context-0: no transfer within 0.05 s"):
            await fetch
        await context.releases.wait(1)  # the connection was given up
        assert (gate.num_reads, generation.transceiver.stats().num_transfer_failures_total) == (1, 1)


async def test_a_failed_copy_ends_the_connection_and_the_next_ticket_connects_anew() -> None:
    gate = GatedTransport()
    gate.read_error = "the link broke"
    gate.may_end.set()
    async with (
        server("context-0", transports=[gate]) as context,
        server("generation-0", transports=[gate]) as generation,
    ):
        claims = [await generation.transceiver.claim(context.hold(i, [3])) for i in (1, 2)]
        with pytest.raises(HandoverError, match="the link broke"):
            await claims[0].fetch([0])
        with pytest.raises(HandoverError, match="the link broke"):
            await claims[1].fetch([1])
        await context.releases.wait(1)
        await context.releases.wait(2)
        gate.read_error = None
        await (await generation.transceiver.claim(context.hold(3, [3]))).fetch([0])
        assert gate.num_closes == 1


async def test_a_claim_is_taken_once() -> None:
    async with server("context-0") as context, server("generation-0") as generation:
        ticket = context.hold(1, [3])
        claim = await generation.transceiver.claim(ticket)
        with pytest.raises(HandoverError, match="hold 1 of context-0 is claimed already"):
            await generation.transceiver.claim(ticket)
        await claim.fetch([0])


async def test_a_ticket_for_blocks_outside_the_pool_copies_nothing() -> None:
    async with server("context-0", seed=1) as context, server("generation-0", seed=2) as generation:
        before = generation.pool.tensor.clone()
        for blocks in ([32], [-1]):
            claim = await generation.transceiver.claim(context.hold(1, blocks))
            with pytest.raises(HandoverError, match="blocks outside the pool"):
                await claim.fetch([0])
            await context.releases.wait(1)
            context.releases.counts.clear()
        assert torch.equal(generation.pool.tensor, before)


async def test_transports_are_tried_in_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broken = GatedTransport(connect_error="no such link")
    async with server("context-0", seed=1) as context:
        async with server("generation-0", transports=lambda pool: [broken, LocalTransport(pool)]) as generation:
            await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])
        assert re.search("comes by local, pull: .*; not local: no such link", caplog.text)
        async with server("generation-1", transports=[broken]) as generation:
            with pytest.raises(HandoverError, match="no transport connects: not local: no such link"):
                await generation.transceiver.claim(context.hold(2, [3]))


async def test_transports_learn_whether_anything_is_held() -> None:
    gate = GatedTransport()
    async with server("context-0", transports=[gate], lease_ms=40) as context:
        context.hold(1, [3])
        await context.releases.wait(1)
        context.hold(2, [3])
        await context.releases.wait(2)
    assert gate.serving[:3] == [True, False, True]


async def test_a_silent_generation_server_is_taken_for_gone() -> None:
    async with server("context-0", keepalive_s=0.2) as context, server("generation-0", keepalive_s=90) as generation:
        await generation.transceiver.claim(context.hold(1, [3]))
        await context.releases.wait(1)


async def test_a_silent_context_server_is_taken_for_gone() -> None:
    async with server("context-0") as context, server("generation-0", keepalive_s=0.2) as generation:
        claim = await generation.transceiver.claim(context.hold(1, [3]))
        heard = []
        context.transceiver._offers._handle = lambda stream, message: heard.append(message)  # and answers nothing
        with pytest.raises(HandoverError, match="the peer was silent"):
            await claim.fetch([0])
        assert heard


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


NOT_UTF8 = frame(b"\x82\xa4type\xa5hello\xa6server\xa1\xff")
NESTED = frame(b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 100_000)


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\0\0\0\2hi", b"\0\0\0\x10", b"", NOT_UTF8, NESTED])
async def test_nonsense_on_the_port_hurts_nobody(sent: bytes) -> None:
    async with server("context-0", seed=1) as context, server("generation-0") as generation:
        ticket = context.hold(1, [3])
        reader, writer = await asyncio.open_connection(ticket.host, ticket.port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(60):
            assert await reader.read()  # a challenge, perhaps a refusal, and the end
        writer.close()
        await (await generation.transceiver.claim(ticket)).fetch([0])


async def test_nothing_is_said_to_one_without_the_secret() -> None:
    async with server("context-0", secret=b"right") as context:
        ticket = context.hold(1, [3])
        stream = PeerStream(*await asyncio.open_connection(ticket.host, ticket.port), DECODER)
        with pytest.raises(HandoverError, match="secret"):
            await introduce(stream, HELLO, b"wrong")
        with pytest.raises(PeerLostError):
            await stream.receive(5)
        await stream.close()


async def test_another_wire_version_is_refused() -> None:
    async with server("context-0") as context:
        ticket = context.hold(1, [3])
        stream = PeerStream(*await asyncio.open_connection(ticket.host, ticket.port), DECODER)
        with pytest.raises(HandoverError, match="wire version 99 meets 1"):
            await introduce(stream, msgspec.structs.replace(HELLO, wire_version=99), b"")
        await stream.close()


async def test_a_port_that_is_taken() -> None:
    async with server("context-0") as context:
        with pytest.raises(StartupError, match=f"context-1 cannot listen .* 127.0.0.1:{context.transceiver.port}"):
            async with server("context-1", port=context.transceiver.port):
                pass


async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    async def body() -> None:
        async with server("context-0") as context:
            context.hold(1, [3])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
