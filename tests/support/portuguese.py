"""The tables of docs/compatibility.md and docs/reliability.md in Portuguese: made from the English ones, cell by cell.

A phrase that is not here is a KeyError: no cell of the Portuguese page stays English.
"""

import re

# What stands in backticks or in quotation marks, and a status in front, is the same in both languages.
KEPT = re.compile(r"`[^`]*`|“[^”]*”|^\d{3}\b")
AT_THE_END = {", once": ", uma vez", ", always": ", sempre"}
PHRASES = {
    # docs/compatibility.md
    "Parameter": "Parâmetro",
    "Router, chat": "Roteador, chat",
    "Own URL, chat (TGI, vLLM)": "URL própria, chat (TGI, vLLM)",
    "Own URL, text (TGI)": "URL própria, texto (TGI)",
    "hf-inference, text": "hf-inference, texto",
    "Embedded engine": "Motor embutido",
    "{}, one": "{}, uma",
    "{}, several turns": "{}, vários turnos",
    "{}, images": "{}, imagens",
    "{}, a list": "{}, uma lista",
    "{}, a string": "{}, um texto",
    "{} (deprecated)": "{} (obsoleto)",
    "{} json_object": "{} json_object",
    "{} json_schema": "{} json_schema",
    "{}, items": "{}, itens",
    "{}, pictures": "{}, imagens",
    "{}, calls and their results": "{}, chamadas e seus resultados",
    "{}, functions": "{}, funções",
    "{}, OpenAI's beside a function": "{}, as da OpenAI ao lado de uma função",
    "{}, OpenAI's alone": "{}, só as da OpenAI",
    "{}, log probabilities": "{}, log-probabilidades",
    "{}, anything else": "{}, qualquer outra coisa",
    "any other field": "qualquer outro campo",
    "honoured": "atendido",
    "forwarded": "encaminhado",
    "refused": "recusado",
    "repeated": "repetido",
    "left out": "deixado de fora",
    "left out: the first user message alone¹": "deixado de fora: só a primeira mensagem do usuário¹",
    "translated: {}": "traduzido: {}",
    "translated: {}, {}": "traduzido: {}, {}",
    "translated: {}, the first user message¹": "traduzido: {}, a primeira mensagem do usuário¹",
    "translated: {} and left out": "traduzido: {}, e deixado de fora",
    # docs/reliability.md
    "fault": "falha",
    "whole answer": "resposta inteira",
    "stream, before the first token": "stream, antes do primeiro token",
    "stream, after tokens": "stream, depois de tokens",
    "attempts": "tentativas",
    "answered": "respondida",
    "1 or 2": "1 ou 2",
    "{} event": "evento {}",
    "{}, {}": "{}, {}",
    "{}, streaming is not supported (nor is anything else)": "{}, não aceita streaming (nem mais nada)",
    "{}, an empty body": "{}, corpo vazio",
    "{}, an HTML page": "{}, uma página HTML",
    "{}, the body cut": "{}, corpo cortado",
    "{}, retired": "{}, desativado",
    "{}, gated": "{}, de acesso restrito",
    "{}, loading for another 20 s": "{}, carregando por mais 20 s",
    "{} twice, loading for 0.2 s": "{} duas vezes, carregando por 0,2 s",
    "{} of a proxy": "{} de um proxy",
    "{} of an overloaded TGI": "{} de um TGI sobrecarregado",
    "{} of a waking endpoint": "{} de um endpoint que está acordando",
    "{} of a waking endpoint, asked through the router": "{} de um endpoint que está acordando, pelo roteador",
    "{} without a hint": "{} sem indicação de espera",
    "{} without choices": "{} sem choices",
    "{} with Retry-After: 1": "{} com Retry-After: 1",
    "{} with Retry-After as a date": "{} com Retry-After em forma de data",
    "{} with RateLimit: t=1": "{} com RateLimit: t=1",
    "{} once, Retry-After: 1": "{} uma vez, Retry-After: 1",
    "{} once, Retry-After as a date": "{} uma vez, Retry-After em forma de data",
    "{} once, RateLimit: t=1": "{} uma vez, RateLimit: t=1",
    "{} once, without a hint": "{} uma vez, sem indicação de espera",
    "{} once": "{} uma vez",
    "{} with an empty body": "{} com corpo vazio",
    "{} with an HTML page": "{} com uma página HTML",
    "{} with half a JSON": "{} com meio JSON",
    "{} with an error in it": "{} com um erro dentro",
    "{} with a list of errors": "{} com uma lista de erros",
    "{} with {}": "{} com {}",
    "accepts and never answers": "aceita e nunca responde",
    "headers and nothing more": "cabeçalhos e mais nada",
    "headers, a byte at a time": "cabeçalhos, um byte por vez",
    "a body, a byte at a time": "um corpo, um byte por vez",
    "connection reset before the status": "conexão derrubada (RST) antes do status",
    "connection closed before the status": "conexão fechada antes do status",
    "connection reset": "conexão derrubada (RST)",
    "connection closed": "conexão fechada",
    "connection closed in the middle of an event": "conexão fechada no meio de um evento",
    "the content filter's verdict": "o veredito do filtro de conteúdo",
    "the prompt is too long": "o prompt é longo demais",
    "the prompt is too long, as TGI says it": "o prompt é longo demais, nas palavras do TGI",
    "a redirect, which is not followed": "um redirecionamento, que não é seguido",
    "first event: an error that says 422": "primeiro evento: um erro que diz 422",
    "first event: an error that says 429": "primeiro evento: um erro que diz 429",
    "first event: an error that says 503": "primeiro evento: um erro que diz 503",
    "first event: an error without a status": "primeiro evento: um erro sem status",
    "first event: TGI's generation error": "primeiro evento: o erro de geração do TGI",
    "first event: TGI's validation error": "primeiro evento: o erro de validação do TGI",
    "a lone [DONE]": "um [DONE] sozinho",
    "a stream without an event": "um stream sem nenhum evento",
    "silence": "silêncio",
    "TGI's error event, then [DONE]": "o evento de erro do TGI e, depois, [DONE]",
    "an error event, then the end": "um evento de erro e, depois, o fim",
    "[DONE] without a finish, after the answer": "[DONE] sem finish, depois da resposta",
    "a clean end without a finish": "um fim limpo sem finish",
    "an event that is no JSON is skipped": "um evento que não é JSON é pulado",
    "a first event that is no JSON is skipped": "um primeiro evento que não é JSON é pulado",
    "no [DONE] after the finish": "nenhum [DONE] depois do finish",
    "1.5 s of silence, then the answer": "1,5 s de silêncio e, depois, a resposta",
    "comments for 1 s, then the answer": "comentários por 1 s e, depois, a resposta",
    "refuses to stream, answers whole": "recusa o stream, responde inteira",
    "asked for a stream, answers whole": "pede-se um stream, responde inteira",
}


def table(text: str) -> str:
    """The lines of a Markdown table in Portuguese."""
    return "".join(f"| {' | '.join(map(cell, row))} |\n" for row in map(cells, text.splitlines()))


def cells(line: str) -> list[str]:
    """The cells of a table's line."""
    return [one.strip() for one in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def cell(text: str) -> str:
    """A cell in Portuguese."""
    text, end = next(((text.removesuffix(e), e) for e in AT_THE_END if text.endswith(e)), (text, ""))
    phrase = KEPT.sub("{}", text)
    if re.search("[a-z]", phrase):
        text = PHRASES[phrase].format(*KEPT.findall(text))
    return text + AT_THE_END.get(end, "")
