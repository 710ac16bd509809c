"""Speaks to a running `nanochat serve` through LiteLLM: three turns, one of them with an empty answer.

    pip install litellm
    python scripts/clients/litellm_client.py http://127.0.0.1:8000 [KEY]
"""

import asyncio
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches a list of prices when it is imported
import litellm

base = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
key = sys.argv[2] if len(sys.argv) > 2 else "none"
litellm.telemetry = False
name = litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="openai", api_base=f"{base}/v1", api_key=key)[0]
options = {"model": f"openai/{name.removeprefix('openai/')}", "api_base": f"{base}/v1", "api_key": key, "num_retries": 0, "temperature": 0, "seed": 7}

messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "Who are you?"}]
second = litellm.completion(messages=messages, max_tokens=24, **options)
print("second turn", repr(second.choices[0].message.content), second.choices[0].finish_reason, second.usage.total_tokens)
assert second.usage.total_tokens == second.usage.prompt_tokens + second.usage.completion_tokens

# The answer goes back as it came, with all its fields.
messages += [second.choices[0].message.model_dump(), {"role": "user", "content": "What is 2+3?"}]
third = litellm.completion(messages=messages, max_tokens=24, **options)
chunks = list(litellm.completion(messages=messages, max_tokens=24, stream=True, stream_options={"include_usage": True}, **options))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
print("third turn", repr(third.choices[0].message.content), len(chunks), "chunks")
assert streamed == (third.choices[0].message.content or ""), (streamed, third.choices[0].message.content)


async def together() -> list:
    return await asyncio.gather(*(litellm.acompletion(messages=messages, max_tokens=24, **options) for _ in range(3)))


assert {answer.choices[0].message.content for answer in asyncio.run(together())} == {third.choices[0].message.content}
text = litellm.text_completion(prompt="The old town", max_tokens=12, **{**options, "model": f"text-completion-openai/{name.removeprefix('openai/')}"})
print("completion", repr(text.choices[0].text))
try:
    litellm.completion(messages=[], **options)
except litellm.BadRequestError as error:
    print("BadRequestError", str(error)[:120])
else:
    sys.exit("BadRequestError was expected")
print("all as it should be")
