"""The stories that worlds have beside their programs at random, by name; see `proof.sim.stories.story`."""

from __future__ import annotations

from typing import Final

from proof.sim.stories.failures import Failures
from proof.sim.stories.fan_out import FanOut
from proof.sim.stories.promises import Promises
from proof.sim.stories.story import Story

STORIES: Final[dict[str, type[Story]]] = {story.name: story for story in (Promises, Failures, FanOut)}
