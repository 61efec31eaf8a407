"""From a name such as `openai:MODEL` to the client that asks it.

In: a name, and whoever's options say address, key, caps and patience. Out: a `LanguageClient`. The decision a reader
would question: address and key hold for the vendor they were given for alone (`has_address`), so that a second reader
of another vendor is not sent the first one's key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from autocaft.llm.client import LanguageClient
from autocaft.llm.prices import Price, find_price
from autocaft.llm.vendors import Vendor, make_vendor
from autocaft.rundir.store import RunStore

BATCH_CONCURRENCY = 1000
"""Questions asked at the same time in batches: each round of them is one batch."""
LocalModel = Callable[[str], tuple[Callable[[], tuple[Any, Any]], str]]
"""From a model's spec to its loader (model, tokenizer) and its identity."""


class DoorOptions(Protocol):
    """What the options of every room that asks have in common."""

    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key_env(self) -> str | None: ...
    @property
    def prices(self) -> str | None: ...
    @property
    def batch(self) -> bool: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def patience_s(self) -> float: ...
    @property
    def max_usd(self) -> float | None: ...
    @property
    def max_total_tokens(self) -> int | None: ...


def open_door(
    name: str, options: DoorOptions, store: RunStore, *, has_address: bool, local: LocalModel
) -> LanguageClient:
    """The door to the language model `name`.

    Raises:
        JudgeError: no key in the environment, or a cap in dollars and no price.
    """
    kind, _, what = name.partition(":")
    patience_s, concurrency = options.patience_s, options.concurrency
    vendor: Vendor
    if kind == "local":
        from autocaft.llm.local import LocalChat

        load, identity = local(what)
        vendor = LocalChat(load, identity=identity)
    else:
        wire = make_vendor(
            kind,
            base_url=options.base_url if has_address else None,
            api_key_env=options.api_key_env if has_address else None,
            timeout_s=options.timeout_s,
        )
        vendor = wire
        if options.batch or store.batches(wire.endpoint):
            from autocaft.llm.batch import PATIENCE_S, BatchVendor

            vendor = BatchVendor(wire, store, hands_over=options.batch)
            if options.batch:
                patience_s, concurrency = PATIENCE_S, BATCH_CONCURRENCY
    return LanguageClient(
        vendor,
        name=name,
        store=store,
        price=price_of(name, options, has_address=has_address),
        patience_s=patience_s,
        concurrency=concurrency,
        max_usd=options.max_usd,
        max_total_tokens=options.max_total_tokens,
    )


def price_of(name: str, options: DoorOptions, *, has_address: bool) -> Price | None:
    """What the language model `name` costs; None if nobody says."""
    file = Path(options.prices).expanduser() if options.prices else None
    base_url = options.base_url if has_address else None
    return find_price(name, base_url=base_url, file=file, batch=options.batch)
