"""Engines that run language and speech models: vLLM in this process, or any server that speaks OpenAI's protocol.

A stage says what it asks and reads the answers; which engine answers is configuration outside its fingerprint.
"""

from emoray.engines.client import Answer, Engine, Question
from emoray.engines.config import EndpointConfig, EngineConfig, VllmConfig
from emoray.engines.open import open_engine

__all__ = ["Answer", "EndpointConfig", "Engine", "EngineConfig", "Question", "VllmConfig", "open_engine"]
