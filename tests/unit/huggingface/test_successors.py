"""Which listed model takes the place of one that is gone."""

from chatapi.huggingface.successors import Offer, successors


def row(id, *providers):
    return {"id": id, "object": "model", "providers": list(providers)}


def provider(name="novita", status="live", price=None, **more):
    pricing = {"pricing": {"input": price[0], "output": price[1]}} if price else {}
    return {"provider": name, "status": status, **pricing, **more}


LISTED = [
    row("acme/large", provider(price=(2, 4), first_token_latency_ms=100)),
    row("acme/cheap", provider("groq", price=(0.1, 0.2)), provider("together", price=(0.05, 0.1), context_length=8192)),
    row("acme/dead", provider(status="error", price=(0, 0))),
    row("google/gemma", provider(price=(3, 3), first_token_latency_ms=312.4)),
    row("acme/unpriced", provider(first_token_latency_ms=50)),
    row("acme/odd", "x", None, provider(price=("a", None), context_length="many")),
    {"id": "acme/none"},
]


def test_the_own_organisations_models_come_first_then_the_cheapest():
    assert [offer.model for offer in successors("google/flan-t5-base", LISTED)] == [
        *("google/gemma", "acme/cheap", "acme/large", "acme/unpriced", "acme/odd"),
    ]


def test_the_cheapest_provider_speaks_for_a_model():
    offers = {offer.model: offer for offer in successors("x/y", LISTED)}
    assert offers["acme/cheap"] == Offer("acme/cheap", "together", 0.05, 0.1, 8192)
    assert str(offers["acme/cheap"]) == "together, $0.05 in, $0.1 out per million tokens, 8192 tokens of context"
    assert str(offers["google/gemma"]) == "novita, $3 in, $3 out per million tokens, first token after 312 ms"
    assert str(offers["acme/odd"]) == "novita"


def test_a_model_is_not_its_own_successor():
    assert "acme/cheap" not in [offer.model for offer in successors("acme/cheap", LISTED)]
