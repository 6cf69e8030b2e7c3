import asyncio

from weightwell_service.server.write_limit import WriteLimit


async def passes_of(limit: WriteLimit, claims: dict[str, tuple[int, int]]) -> list[list[str]]:
    """Return who wrote in each pass of the loop; ``claims`` has the number of parts and the bytes of each."""
    written: list[list[str]] = [[]]

    async def write(name: str, count: int, nbytes: int) -> None:
        for _ in range(count):
            await limit.claim(nbytes)
            written[-1].append(name)

    writers = [asyncio.ensure_future(write(name, *claim)) for name, claim in claims.items()]
    while not all(writer.done() for writer in writers):
        await asyncio.sleep(0)
        written.append([])
    return [names for names in written if names]


def test_a_pass_writes_a_limited_number_of_bytes_for_one_writer_after_the_other() -> None:
    claims = dict.fromkeys("abcdef", (2, 2))
    assert asyncio.run(passes_of(WriteLimit(4), claims)) == [[*"aa"], [*"bc"], [*"de"], [*"fb"], [*"cd"], [*"ef"]]


def test_one_writer_has_the_whole_pass() -> None:
    assert asyncio.run(passes_of(WriteLimit(4), {"a": (8, 1)})) == [["a"] * 4] * 2


def test_a_part_may_be_larger_than_the_limit() -> None:
    assert asyncio.run(passes_of(WriteLimit(4), {"a": (2, 100), "b": (1, 1)})) == [["a"], ["a"], ["b"]]


def test_a_writer_that_has_left_takes_nothing() -> None:
    async def leave() -> list[int]:
        limit, order = WriteLimit(1), list[int]()

        async def write(number: int) -> None:
            await limit.claim(1)
            order.append(number)

        writers = [asyncio.ensure_future(write(number)) for number in range(4)]
        await asyncio.sleep(0)
        writers[1].cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        return order

    assert asyncio.run(leave()) == [0, 2, 3]
