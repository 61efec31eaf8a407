"""What a model's tokens cost, without asking the network.

In: the name of a judge, its address, the user's own price file. Out: a `Price`, or None where nobody knows. The
decision a reader would question: the list prices of `genai-prices` hold only for a vendor's own address. Behind another
`base_url` the same model's name may cost anything, so there the price is the user's to say.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError
from autocaft.llm.outcomes import Usage

NANO = 10**9
BATCH_SHARE = Decimal("0.5")
"""OpenAI and Anthropic both charge half for batches."""
PRICE_KEYS = {"input", "output"}


@dataclass(frozen=True, slots=True)
class Price:
    """What the tokens of one model cost."""

    source: str
    """Where the price is from, for `plan`."""
    usd: Callable[[int, int], Decimal]
    """Dollars for so many input and output tokens."""
    share: Decimal = Decimal(1)
    """What is charged of it: less than 1 in a batch."""

    def nano_usd(self, usage: Usage) -> int:
        """Cost in billionths of a dollar, rounded up; cached input counts in full."""
        exact = self.usd(usage.input_tokens, usage.output_tokens) * self.share * NANO
        return int(exact.to_integral_value(ROUND_CEILING))


def find_price(judge: str, *, base_url: str | None, file: Path | None, batch: bool = False) -> Price | None:
    """The price of a judge such as `openai:MODEL`; the user's file wins. None if nobody knows.

    Raises:
        ConfigError: the file cannot be read.
    """
    vendor, _, model = judge.partition(":")
    share = BATCH_SHARE if batch else Decimal(1)
    if vendor not in ("openai", "anthropic"):
        return Price("nothing is paid for it", lambda n_in, n_out: Decimal(0))
    own = read_price_file(file).get(judge) if file is not None else None
    if own is not None:
        usd_in, usd_out = own
        return Price(f"{file}", lambda n_in, n_out: (usd_in * n_in + usd_out * n_out) / 10**6, share)
    return None if base_url is not None else _list_price(vendor, model, share)


def _list_price(vendor: str, model: str, share: Decimal) -> Price | None:
    """The price in the package's own table: steps by length are in it, discounts for cached input are not taken."""
    import genai_prices

    def usd(n_in: int, n_out: int) -> Decimal:
        usage = genai_prices.Usage(input_tokens=n_in, output_tokens=n_out)
        return genai_prices.calc_price(usage, model_ref=model, provider_id=vendor).total_price

    try:
        usd(1, 1)
    except LookupError:
        return None
    return Price(f"list price in genai-prices {genai_prices.__version__}", usd, share)


def read_price_file(path: Path) -> dict[str, tuple[Decimal, Decimal]]:
    """Dollars per million input and output tokens by judge, from a TOML file of tables like

        ["openai:my-model"]
        input = 0.25
        output = 2.0

    Raises:
        ConfigError: not there, not TOML, or not such tables.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"judge.prices: {path} is no readable TOML file: {error}") from None
    return {name: _price_of(path, name, table) for name, table in tables.items()}


def _price_of(path: Path, name: str, table: Any) -> tuple[Decimal, Decimal]:
    is_price = isinstance(table, dict) and set(table) == PRICE_KEYS
    if not is_price or not all(isinstance(v, int | Decimal) and Decimal(v) >= 0 for v in table.values()):
        raise ConfigError(
            f'judge.prices: {path}, ["{name}"]: give `input` and `output`, in dollars per million tokens, and no more'
        )
    return Decimal(table["input"]), Decimal(table["output"])
