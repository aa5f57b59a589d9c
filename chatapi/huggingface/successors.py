"""Which listed models can take the place of one that is gone: what they cost, read and how soon they begin."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..chat import Json
from ..languages import _


@dataclass(frozen=True, slots=True)
class Offer:
    """A live provider's offer of a model. Prices are US dollars per million tokens; None is not known."""

    model: str
    provider: str
    input_price: float | None = None
    output_price: float | None = None
    context_tokens: int | None = None
    first_token_ms: float | None = None

    def __str__(self) -> str:
        """In a few words, for a comment in the catalogue."""
        facts = [self.provider]
        if self.input_price is not None and self.output_price is not None:
            prices = {"input": self.input_price, "output": self.output_price}
            facts.append(_("${input:g} in, ${output:g} out per million tokens", **prices))
        if self.context_tokens:
            facts.append(_("{count} tokens of context", count=self.context_tokens))
        if self.first_token_ms:
            facts.append(_("first token after {ms:.0f} ms", ms=self.first_token_ms))
        return ", ".join(facts)


def successors(gone: str, listed: Iterable[Json]) -> list[Offer]:
    """The best offer of each listed model but `gone`: its own organisation's first, then the cheapest, the quickest."""
    offers = [min(found, key=_cost) for row in listed if row.get("id") != gone and (found := list(_offers(row)))]
    organisation = gone.partition("/")[0]
    return sorted(offers, key=lambda offer: (offer.model.partition("/")[0] != organisation, *_cost(offer)))


def _offers(row: Json) -> Iterator[Offer]:
    given: Any = row.get("providers")
    for provider in given if isinstance(given, list) else ():
        if isinstance(provider, dict) and provider.get("status") == "live":
            pricing = provider.get("pricing")
            prices = pricing if isinstance(pricing, dict) else {}
            context = _number(provider.get("context_length"))
            yield Offer(
                model=str(row.get("id")),
                provider=str(provider.get("provider") or "-"),
                input_price=_number(prices.get("input")),
                output_price=_number(prices.get("output")),
                context_tokens=int(context) if context else None,
                first_token_ms=_number(provider.get("first_token_latency_ms")),
            )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _cost(offer: Offer) -> tuple[float, float, str]:
    price = sum(p if p is not None else float("inf") for p in (offer.input_price, offer.output_price))
    return price, offer.first_token_ms if offer.first_token_ms is not None else float("inf"), offer.model
