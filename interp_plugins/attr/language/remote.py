"""Language models behind a server: what `RemoteLLMAttribution` asks of one, and a client for OpenAI-compatible servers.

The client speaks `POST /completions` with `prompt_logprobs` (as vLLM serves it) and `GET /models`, over the standard
library.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from typing import Any

from interp_plugins.core.errors import InputError, ModelError


class RemoteLLMProvider(ABC):
    """A server that generates text and scores text."""

    api_url: str

    @abstractmethod
    def generate(self, prompt: str, **gen_args: Any) -> str:
        """The text that the model writes after the prompt."""

    @abstractmethod
    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log probability of each token of the target after the prompt."""


class VLLMProvider(RemoteLLMProvider):
    """A server that speaks OpenAI's completions with prompt log probabilities, such as vLLM.

    Args:
        api_url: its address, "http://localhost:8000/v1".
        model_name: the served model; None: the first that the server lists.
        timeout: seconds to wait for an answer.

    The environment variable OPENAI_API_KEY is sent as the key, if set.

    Raises:
        InputError: no address, or the server lists no model.
        ConnectionError: the server cannot be reached, or refuses.
    """

    def __init__(self, api_url: str, model_name: str | None = None, *, timeout: float = 60.0):
        if not api_url.strip():
            raise InputError("API URL is required, such as 'http://localhost:8000/v1'.")
        if not api_url.startswith(("http://", "https://")):
            raise InputError(f"api_url must start with http:// or https://, got {api_url!r}.")
        self.api_url, self.timeout = api_url.rstrip("/"), timeout
        if model_name is None:
            models = self._ask("models").get("data") or []
            if not models:
                raise InputError(f"No models available from {self.api_url}; give model_name.")
            model_name = models[0]["id"]
        self.model_name = model_name

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.api_url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.getenv('OPENAI_API_KEY', 'EMPTY')}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as err:
            detail = err.read().decode(errors="replace")[:300]
            raise ConnectionError(f"{self.api_url}/{path} answered {err.code}: {detail}") from err
        except (urllib.error.URLError, TimeoutError) as err:
            raise ConnectionError(f"Failed to connect to {self.api_url}: {err}") from err
        except json.JSONDecodeError as err:
            raise ModelError(f"{self.api_url}/{path} did not answer with JSON: {err}") from err
        if not isinstance(found, dict):
            raise ModelError(f"{self.api_url}/{path} answered {type(found).__name__}, expected an object.")
        return found

    def _choice(self, **body: Any) -> dict[str, Any]:
        answer = self._ask("completions", {"model": self.model_name, **body})
        if not answer.get("choices"):
            raise ModelError(f"API response missing expected 'choices' data: it has {sorted(answer)}.")
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    def generate(self, prompt: str, **gen_args: Any) -> str:
        """The text after the prompt.

        Args:
            prompt: the text before.
            **gen_args: of the server; Hugging Face's max_new_tokens and do_sample are translated, None is left out.
        """
        given = {k: v for k, v in gen_args.items() if v is not None}
        if given.pop("do_sample", None) is False:
            given.setdefault("temperature", 0.0)
        given.setdefault("max_tokens", given.pop("max_new_tokens", 25))
        given.pop("max_new_tokens", None)
        return str(self._choice(prompt=prompt, **given)["text"])

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log probability of each token of the target.

        Args:
            input_prompt: the text before.
            target_str: the target.
            tokenizer: the served model's, to count the target's tokens.

        Raises:
            InputError: no tokenizer, or an empty target.
            ModelError: the server gives no log probabilities of prompts, or too few.
        """
        if tokenizer is None:
            raise InputError("Tokenizer is required to count the target's tokens; give the served model's.")
        if not target_str:
            raise InputError("Target string cannot be empty.")
        count = len(tokenizer.encode(target_str, add_special_tokens=False))
        choice = self._choice(prompt=input_prompt + target_str, temperature=0.0, max_tokens=1, prompt_logprobs=0)
        logs = choice.get("prompt_logprobs")
        if not logs:
            raise ModelError("API response missing 'prompt_logprobs' data. The server must score prompts (vLLM does).")
        if len(logs) < count:
            raise ModelError(f"Not enough logprobs received: expected {count}, got {len(logs)}.")
        found = []
        for one in logs[-count:]:
            if not one:
                raise ModelError("Empty probability data in API response: a target token has no log probability.")
            found.append(float(next(iter(one.values()))["logprob"]))
        return found
