"""S1's request and its three examples, verbatim from docs/chat-completion-api.md."""

S1_FORMAT = """{
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "text",
                    "text": "Explique o que é inteligência artificial em uma frase."
                }
            ]
        }
    ],
    "model": "microsoft/DialoGPT-medium",
    "stream": false,
    "temperature": 0.7,
    "max_tokens": 100
}"""

S1_EXAMPLE_1 = """{
    "messages": [
        {
            "role": "user",
            "content": "Qual é a capital do Brasil?"
        }
    ],
    "model": "microsoft/DialoGPT-medium",
    "temperature": 0.7
}"""

S1_EXAMPLE_2 = """{
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "text",
                    "text": "Explique como funciona a inteligência artificial"
                }
            ]
        }
    ],
    "model": "microsoft/DialoGPT-large",
    "stream": false,
    "temperature": 0.5,
    "max_tokens": 500
}"""

S1_EXAMPLE_3 = """{
    "messages": [
        {
            "role": "system",
            "content": "Você é um assistente especializado em tecnologia."
        },
        {
            "role": "user",
            "content": "O que é machine learning?"
        },
        {
            "role": "assistant",
            "content": "Machine learning é uma área da inteligência artificial..."
        },
        {
            "role": "user",
            "content": "Quais são os principais tipos?"
        }
    ],
    "model": "microsoft/DialoGPT-medium",
    "temperature": 0.7,
    "max_tokens": 300
}"""
