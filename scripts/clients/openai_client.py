"""Speaks to a running `nanochat serve` through the official `openai` package.

    pip install openai
    python scripts/clients/openai_client.py http://127.0.0.1:8000 [KEY]
"""

import sys

import openai

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
key = sys.argv[2] if len(sys.argv) > 2 else "none"
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
model = client.models.list().data[0].id
print("model", model, "max_model_len", client.models.retrieve(model).max_model_len)
ask = [{"role": "user", "content": "What is 216+11?"}]

chat = client.chat.completions.create(model=model, messages=ask, temperature=0, logprobs=True, top_logprobs=2)
choice = chat.choices[0]
print("chat", repr(choice.message.content), choice.finish_reason, chat.usage.total_tokens)
assert choice.message.content and choice.finish_reason in ("stop", "length")
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
entry = choice.logprobs.content[0]
assert entry.logprob <= 0 and len(entry.top_logprobs) == 2 and entry.top_logprobs[0].logprob == entry.logprob

options = {"include_usage": True}
chunks = list(client.chat.completions.create(model=model, messages=ask, temperature=0, stream=True, stream_options=options))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert streamed == choice.message.content, (streamed, choice.message.content)
assert chunks[-1].usage == chat.usage and not chunks[-1].choices
print("stream", len(chunks), "chunks")

several = client.chat.completions.create(model=model, messages=ask, n=3, seed=7, temperature=1)
again = client.chat.completions.create(model=model, messages=ask, n=3, seed=7, temperature=1)
texts = lambda answer: [choice.message.content for choice in answer.choices]
assert texts(several) == texts(again) and len(several.choices) == 3
print("n=3, seed", texts(several))

text = client.completions.create(model=model, prompt="The old town", max_tokens=12, temperature=0, echo=True, logprobs=2)
lists = text.choices[0].logprobs
assert text.choices[0].text.startswith("The old town") and "".join(lists.tokens) == text.choices[0].text
assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset)
print("completion", repr(text.choices[0].text))
scored = client.completions.create(model=model, prompt=text.choices[0].text, max_tokens=0, echo=True, logprobs=2)
far = max(abs(a - b) for a, b in zip(lists.token_logprobs, scored.choices[0].logprobs.token_logprobs))
print("the same tokens scored:", far, "apart")
assert far < 0.05
many = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3)
assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
stopped = client.completions.create(model=model, prompt="The old town", max_tokens=12, temperature=0, stop=[text.choices[0].text[-4:]])
assert stopped.choices[0].finish_reason == "stop" and text.choices[0].text[-4:] not in stopped.choices[0].text
pieces = client.completions.create(model=model, prompt="The old town", max_tokens=12, temperature=0, stream=True)
assert "The old town" + "".join(piece.choices[0].text for piece in pieces) == text.choices[0].text

# A conversation of three turns whose second answer is empty: it stops at its first character. Messages go back as they came.
turns = [{"role": "system", "content": "Be kind."}, {"role": "system", "content": "Be brief."}]
more = {"model": model, "temperature": 0, "max_tokens": 64, "extra_body": {"truncation": "auto"}}
for question, nothing in [("Hello!", False), ("What is 216+11?", True), ("Thanks. Who are you?", False)]:
    turns.append({"role": "user", "content": question})
    said = client.chat.completions.create(messages=turns, **more).choices[0].message
    if nothing:
        said = client.chat.completions.create(messages=turns, stop=said.content[:1], **more).choices[0].message
        assert said.content == "", said
    print("turn", question, repr(said.content))
    turns.append(said)
for answer in ["", None]:
    past = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": answer}, *ask]
    again = client.chat.completions.create(model=model, messages=past, temperature=0)
    assert again.choices[0].message.content == choice.message.content, "an empty answer goes with its question"
fits = client.chat.completions.create(model=model, messages=ask, temperature=0, max_tokens=32000, stop="")
assert fits.choices[0].message.content.startswith(choice.message.content)
without_v1 = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
assert without_v1.models.list().data[0].id == model
assert without_v1.chat.completions.create(model=model, messages=ask, temperature=0).choices[0].message.content == choice.message.content


def refused(kind, call):
    try:
        call()
    except kind as error:
        print(kind.__name__, error.message if hasattr(error, "message") else error)
    else:
        sys.exit(f"{kind.__name__} was expected")


create = client.chat.completions.create
refused(openai.NotFoundError, lambda: create(model="gpt-9", messages=ask))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, temperature=3))
refused(openai.BadRequestError, lambda: create(model=model, messages=[]))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, n=99))
refused(openai.BadRequestError, lambda: create(model=model, messages=[{"role": "user", "content": "a b c " * 1000}]))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, tools=[{"type": "function", "function": {"name": "f"}}]))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, tool_choice="required"))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, response_format={"type": "json_object"}))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, extra_body={"min_tokens": 50}))
refused(openai.BadRequestError, lambda: create(model=model, messages=ask, extra_body={"made_up": 1}))
refused(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="x"))
print("all as it should be")
