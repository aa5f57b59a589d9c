"""Messages → the one text a text model reads. Pure; the renderings are those of HF§7."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..catalogue import ModelCard
from ..chat import Message, estimate_tokens, text_of

TURN_TOKENS = 3  # what names and separators add to each turn


class Prompt(NamedTuple):
    """What is sent as `inputs`, and the strings at which the answer must end."""

    text: str
    stop: tuple[str, ...] = ()


def prompt_for(card: ModelCard, messages: Sequence[Message], answer_tokens: int = 0) -> Prompt:
    """The prompt of `messages` for a text model.

    By default the first user message alone (the first one that has text); with `context = "conversation"` all of
    them as the model's family writes a conversation, the oldest turns dropped until prompt and answer fit.
    """
    if card.context == "first-user":
        texts = (text_of(m) for m in messages if m["role"] == "user")
        return Prompt(next((text for text in texts if text.strip()), ""))
    by_task = _completion if card.task == "text-generation" else _instruction
    render = next((render for pattern, render in _FAMILIES if pattern.search(card.id)), by_task)
    turns = _fitting(messages, card.context_tokens, answer_tokens) if card.context_tokens else messages
    return render(turns)


def _fitting(messages: Sequence[Message], context_tokens: int, answer_tokens: int) -> Sequence[Message]:
    # The answer may claim half of the context at most: a caller's generous max_tokens must not push out the prompt.
    room = context_tokens - min(answer_tokens, context_tokens // 2)
    kept: list[Message] = []
    # The system turn is short, and what the operator put there: it stays.
    head = list(messages[:1]) if messages[0]["role"] in ("system", "developer") else []
    room -= sum(estimate_tokens(text_of(message)) + TURN_TOKENS for message in head)
    for message in reversed(messages[len(head) :]):
        room -= estimate_tokens(text_of(message)) + TURN_TOKENS
        if kept and room < 0:
            break
        kept.append(message)
    return head + kept[::-1]


def _dialogpt(messages: Sequence[Message]) -> Prompt:
    return Prompt("".join(text_of(m) + "<|endoftext|>" for m in messages))


def _blenderbot(messages: Sequence[Message]) -> Prompt:
    turns = (" " + text_of(m) if m["role"] == "user" else text_of(m) for m in messages)
    return Prompt("  ".join(turns) + "</s>")


def _dialogue(messages: Sequence[Message]) -> list[str]:
    names = {"user": "User: ", "assistant": "Assistant: "}
    return [names.get(m["role"], "") + text_of(m) for m in messages]


def _completion(messages: Sequence[Message]) -> Prompt:
    return Prompt("\n".join([*_dialogue(messages), "Assistant:"]), stop=("\nUser:", "\nSystem:"))


def _instruction(messages: Sequence[Message]) -> Prompt:
    return Prompt("\n".join(["Continue the dialogue.", *_dialogue(messages), "Assistant:"]))


_FAMILIES = (
    (re.compile(r"dialogpt|(?:^|/)gpt-?2|gpt-neox", re.IGNORECASE), _dialogpt),
    (re.compile(r"blenderbot", re.IGNORECASE), _blenderbot),
    (re.compile(r"(?<![a-z0-9])(?:m?t5|flan)", re.IGNORECASE), _instruction),
)
