"""The stories that worlds have beside their programs at random, by name; see `proof.sim.stories.story`."""

from __future__ import annotations

from typing import Final

from proof.sim.stories.bulk import Bulk
from proof.sim.stories.chapters import Chapters
from proof.sim.stories.failures import Failures
from proof.sim.stories.fan_out import FanOut
from proof.sim.stories.jobs import Jobs
from proof.sim.stories.lines import Lines
from proof.sim.stories.long_journals import LongJournals
from proof.sim.stories.pauses import Pauses
from proof.sim.stories.polling import Polling
from proof.sim.stories.progress import Progress
from proof.sim.stories.promises import Promises
from proof.sim.stories.rewinding import Rewinding
from proof.sim.stories.sagas import Sagas
from proof.sim.stories.schedules import Schedules
from proof.sim.stories.settling import Settling
from proof.sim.stories.starting import Starting
from proof.sim.stories.story import Story

_ALL: Final[tuple[type[Story], ...]] = (
    *(Promises, Failures, FanOut, Pauses, Chapters, Rewinding, Sagas, Settling),
    *(Schedules, Bulk, Starting, LongJournals, Jobs, Polling, Progress, Lines),
)
STORIES: Final[dict[str, type[Story]]] = {story.name: story for story in _ALL}
