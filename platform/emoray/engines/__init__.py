"""Engines that run language and speech models: vLLM in this process, or any server that speaks OpenAI's protocol.

A stage says what it asks and reads the answers; which engine answers is configuration outside its fingerprint.
"""

from emoray.engines.client import Answer, Chat, Engine, Question, Reply
from emoray.engines.config import EndpointConfig, EngineConfig, VllmConfig
from emoray.engines.open import open_engine

__all__ = [
    "Answer",
    "Chat",
    "EndpointConfig",
    "Engine",
    "EngineConfig",
    "Question",
    "Reply",
    "VllmConfig",
    "open_engine",
]
