"""Speaks to a running `nanochat serve` through LangChain and LiteLLM: a conversation of three turns, the second of which
is answered by nothing, whole and streamed.

    pip install langchain-openai litellm
    python scripts/clients/other_clients.py http://127.0.0.1:8000 [KEY]
"""

import json
import sys
import urllib.request

import litellm
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
key = sys.argv[2] if len(sys.argv) > 2 else "none"
listing = urllib.request.Request(f"{base}/v1/models", headers={"authorization": f"Bearer {key}"})
model = json.load(urllib.request.urlopen(listing))["data"][0]["id"]
CUT = {"truncation": "auto"}  # the oldest turns go where the context is small
QUESTIONS = ["Hello!", "What is 216+11?", "Thanks. Who are you?"]


def langchain(questions):
    chat = ChatOpenAI(model=model, base_url=f"{base}/v1", api_key=key, temperature=0, max_tokens=64, extra_body=CUT, max_retries=0)
    turns = [SystemMessage("Be kind."), SystemMessage("Be brief.")]
    for i, question in enumerate(questions):
        turns.append(HumanMessage(question))
        answer = chat.invoke(turns)
        streamed = "".join(chunk.content for chunk in chat.stream(turns))
        assert streamed == answer.content, (streamed, answer.content)
        if i == 1:
            answer = chat.invoke(turns, stop=answer.content[:1])
            assert answer.content == ""
        turns.append(answer)
        yield answer.content


def lite(questions):
    ask = lambda turns, **more: litellm.completion(
        model=f"openai/{model}",
        api_base=f"{base}/v1", api_key=key, messages=turns, temperature=0, max_tokens=64, extra_body=CUT, max_retries=0,
        **more,
    )
    turns = [{"role": "system", "content": "Be kind."}, {"role": "system", "content": "Be brief."}]
    for i, question in enumerate(questions):
        turns.append({"role": "user", "content": question})
        answer = ask(turns).choices[0].message
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(turns, stream=True))
        assert streamed == answer.content, (streamed, answer.content)
        if i == 1:
            answer = ask(turns, stop=answer.content[:1]).choices[0].message
            assert not answer.content
        turns.append(answer.model_dump())
        yield answer.content or ""


answers = list(langchain(QUESTIONS))
print("LangChain", answers)
assert list(lite(QUESTIONS)) == answers
print("LiteLLM says the same")
