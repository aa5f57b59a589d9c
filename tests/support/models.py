"""Models of every kind, what each is sent, and how its answers are read: nothing is sent here."""

from requests.structures import CaseInsensitiveDict

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.huggingface import task_for
from chatapi.huggingface.abilities import check

BASE = "https://hf.test"
CHAT = ModelCard(id="acme/chat")
OWN_CHAT = ModelCard(id="acme/own", url="https://tgi.test/one")
CLASSIC = ModelCard(id="acme/gpt", task="text-generation")
TEXT2TEXT = ModelCard(id="acme/flan", task="text2text-generation")
GENERATE = ModelCard(id="acme/tgi", task="text-generation", url="https://tgi.test")
GENERATE_T5 = ModelCard(id="acme/tgi-flan", task="text2text-generation", url="https://tgi.test")
NEO = ModelCard(id="acme/gpt-neo-125m", task="text-generation", context="conversation")
CHATS, TEXTS = (CHAT, OWN_CHAT), (CLASSIC, TEXT2TEXT, GENERATE, GENERATE_T5)

HI = [{"role": "user", "content": "Hi"}]


def id_of(card):
    return card.id


def ask(messages=HI, **options):
    return ChatJob(model="asked/for", messages=messages, options=options)


def with_stops(*stops):
    return ask(stop=list(stops))


def request(card, job=None, stream=False):
    job = job or ask()
    check(card, job)
    return task_for(card).request(BASE, card, job, stream)


def payload(card, job=None, stream=False):
    return request(card, job, stream).payload


def reply(card, body, job=None, headers=None):
    return task_for(card).reply(card, job or ask(), body, CaseInsensitiveDict(headers or {}))


def chunks(card, events, job=None):
    """Every chunk of a stream: what the events make, then the end."""
    reader = task_for(card).events(card, job or ask())
    made = [chunk for event in events if (chunk := reader.feed(event))]
    assert reader.complete
    return [*made, reader.end()], reader


def deltas(made, index=0):
    return [c["delta"] for chunk in made for c in chunk.choices if c["index"] == index]


def text(made, index=0):
    return "".join(delta.get("content") or "" for delta in deltas(made, index))


def finishes(made):
    return [(c["index"], c["finish_reason"]) for chunk in made for c in chunk.choices if c["finish_reason"]]


def event(delta=None, finish=None, index=0, **more):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}


def token(piece, special=False):
    return {"token": {"id": 5, "text": piece, "logprob": -0.4, "special": special}, "generated_text": None}


def last(piece, generated, special=False, **facts):
    return {**token(piece, special), "generated_text": generated, "details": facts or None}


def counted(prompt, completion):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
