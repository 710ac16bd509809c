"""Speaks to a running `nanochat serve` through LangChain: three turns, one of them with an empty answer.

    pip install langchain-openai
    python scripts/clients/langchain_client.py http://127.0.0.1:8000 [KEY]
"""

import json
import sys
import urllib.request

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_openai import ChatOpenAI, OpenAI

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
key = sys.argv[2] if len(sys.argv) > 2 else "none"
models = urllib.request.Request(f"{base}/v1/models", headers={"Authorization": f"Bearer {key}"})
name = json.load(urllib.request.urlopen(models))["data"][0]["id"]
options = {"model": name, "base_url": f"{base}/v1", "api_key": key, "max_retries": 0, "temperature": 0, "seed": 7}
chat = ChatOpenAI(**options, max_tokens=24)

history = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage(""), HumanMessage("Who are you?")]
second = chat.invoke(history)
print("second turn", repr(second.content), second.response_metadata["finish_reason"], second.usage_metadata["total_tokens"])
assert isinstance(second.content, str) and second.usage_metadata["total_tokens"] > 0

# The third turn through a prompt, as chains do it; streamed it says the same.
prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
chain = prompt | chat
asked = {"history": [*history, second], "question": "What is 2+3?"}
third = chain.invoke(asked)
chunks = list(chain.stream(asked))
streamed = "".join(chunk.content for chunk in chunks)
print("third turn", repr(third.content), len(chunks), "chunks")
assert streamed == third.content, (streamed, third.content)
several = chat.batch([history, history])
assert [answer.content for answer in several] == [second.content] * 2

text = OpenAI(**options, max_tokens=12)
said = text.invoke("The old town")
assert said == "".join(text.stream("The old town"))
print("completion", repr(said))
print("all as it should be")
