"""A composed configuration from command-line words, as tests need it."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from peftbench.config.gate import RunConfig, config_dir, register_schemas, to_run_config
from peftbench.config.runtime import RuntimeSpec


def composed(*words: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return compose("config", overrides=list(words))


def gate(*words: str) -> tuple[RunConfig, RuntimeSpec]:
    return to_run_config(composed(*words))
