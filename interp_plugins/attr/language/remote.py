"""Language models behind a server: what `RemoteLLMAttribution` asks of one, and a client for OpenAI-compatible servers.

The client speaks `POST /completions` with `prompt_logprobs` (as vLLM serves it) and `GET /models`: that of the package
`openai` where it is installed, else one over the standard library with the same face.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import SimpleNamespace
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


class AnswerError(ModelError, ValueError, KeyError, IndexError):
    """A server's answer lacks what was asked for; the builtins are those that Captum raises, each in one place."""

    __str__ = Exception.__str__  # a KeyError would put quotes around it


class _Client:
    """The part of `openai.OpenAI` that is needed, over the standard library."""

    def __init__(self, base_url: str, api_key: str, timeout: float):
        self.base_url, self.api_key, self.timeout = base_url.rstrip("/"), api_key, timeout
        self.models = SimpleNamespace(list=self._models)
        self.completions = SimpleNamespace(create=self._create)

    def _models(self) -> Any:
        listed = self._ask("models").get("data") or []
        return SimpleNamespace(data=[SimpleNamespace(id=one["id"]) for one in listed])

    def _create(self, *, extra_body: dict[str, Any] | None = None, **body: Any) -> Any:
        answer = self._ask("completions", {**body, **(extra_body or {})})
        choices = [
            SimpleNamespace(text=one.get("text"), prompt_logprobs=one.get("prompt_logprobs"))
            for one in answer.get("choices") or []
        ]
        return SimpleNamespace(choices=choices)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.base_url}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as err:
            detail = err.read().decode(errors="replace")[:300]
            raise ConnectionError(f"{self.base_url}/{path} answered {err.code}: {detail}") from err
        except (urllib.error.URLError, TimeoutError) as err:
            raise ConnectionError(f"{self.base_url}: {err}") from err
        except json.JSONDecodeError as err:
            raise ModelError(f"{self.base_url}/{path} did not answer with JSON: {err}") from err
        if not isinstance(found, dict):
            raise ModelError(f"{self.base_url}/{path} answered {type(found).__name__}, expected an object.")
        return found


def _client(api_url: str, timeout: float) -> Any:
    key = os.getenv("OPENAI_API_KEY", "EMPTY")
    if importlib.util.find_spec("openai") is not None:
        return importlib.import_module("openai").OpenAI(base_url=api_url, api_key=key, timeout=timeout)
    return _Client(api_url, key, timeout)


class VLLMProvider(RemoteLLMProvider):
    """A server that speaks OpenAI's completions with prompt log probabilities, such as vLLM.

    Args:
        api_url: its address, "http://localhost:8000/v1".
        model_name: the served model; None: the first that the server lists.
        timeout: seconds to wait for an answer.

    Attributes:
        client: what is asked, with the face of `openai.OpenAI`: that one where the package is installed, else one over
            the standard library. Another (with a proxy, say) may be put in its place.

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
        self.api_url = api_url.rstrip("/")
        self.client = self._asked("", _client, self.api_url, timeout)
        if model_name is None:
            models = self._asked("", self.client.models.list).data
            if not models:
                raise InputError(f"No models available from {self.api_url}; give model_name.")
            model_name = models[0].id
        self.model_name: str = model_name

    def _asked(self, when: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ModelError:
            raise
        except Exception as err:
            if not isinstance(err, OSError) and "openai" not in type(err).__module__:
                raise
            raise ConnectionError(f"Failed to connect to vLLM API{when} at {self.api_url}: {err}") from err

    def _choice(self, when: str, **body: Any) -> Any:
        answer = self._asked(when, self.client.completions.create, model=self.model_name, **body)
        if not answer.choices:
            raise AnswerError(f"API response missing expected 'choices' data: it has none for the prompt{when}.")
        return answer.choices[0]

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
        return str(self._choice("", prompt=prompt, **given).text)

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
        scored: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "extra_body": {"prompt_logprobs": 0}}
        logs = self._choice(" when getting logprobs", prompt=input_prompt + target_str, **scored).prompt_logprobs
        if not logs:
            raise AnswerError("API response missing 'prompt_logprobs' data. The server must score prompts (vLLM does).")
        if not all(logs[-count:]):
            raise AnswerError("Empty probability data in API response: a target token has no log probability.")
        if len(logs) < count:
            raise AnswerError(f"Not enough logprobs received: expected {count}, got {len(logs)}.")
        found = []
        for one in logs[-count:]:
            entry = next(iter(one.values()))
            if "logprob" not in entry:
                raise AnswerError(f"Unexpected format in log probability data: {sorted(entry)}; expected 'logprob'.")
            found.append(float(entry["logprob"]))
        return found
