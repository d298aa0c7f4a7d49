"""When a failed attempt is followed by another: a pure function of policy, attempt, error and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepwell.errors import InvalidArgument, PermanentError

#: The longest duration accepted anywhere, in seconds: about 100 years. More is a mistake of units.
MAX_DURATION_SECONDS = 3_155_760_000.0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how a step is tried again.

    `attempts` counts all tries, the first included. The delay before try n+1 is ``delay * backoff ** (n - 1)`` seconds,
    at most `max_delay`, and is shortened at random by up to the share `jitter` (0 to 1) to spread a crowd. Only
    exceptions of the classes in `on` are retried, and, where `when` is given, only those for which it returns true. An
    exception with a numeric attribute `retry_after` (seconds), such as `RetryLater`, sets its own delay;
    `PermanentError` is never retried.
    """

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 300.0
    jitter: float = 0.1
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    when: Callable[[BaseException], bool] | None = None

    def __post_init__(self) -> None:
        """Refuse a policy that could not be followed."""
        checks = {
            "attempts must be a whole number of at least 1": _is_count(self.attempts),
            "delay must be from 0 to 100 years, in seconds": 0 <= self.delay <= MAX_DURATION_SECONDS,
            "backoff must be at least 1": self.backoff >= 1,
            "max_delay must be from 0 to 100 years, in seconds": 0 <= self.max_delay <= MAX_DURATION_SECONDS,
            "jitter must be from 0 to 1": 0 <= self.jitter <= 1,
        }
        for message, holds in checks.items():
            if not holds:
                raise InvalidArgument(f"Retry: {message}; got {self!r}")


#: The policy of a step that declares none: one attempt.
NO_RETRY = Retry(attempts=1)


def next_delay(policy: Retry, attempt: int, error: BaseException, chance: float) -> float | None:
    """Return the seconds to wait before the attempt after `attempt` (counted from 1), or None to give up.

    `chance` is a random number from 0 to 1 that places the delay within its jitter.
    """
    if attempt >= policy.attempts or isinstance(error, PermanentError) or not isinstance(error, policy.on):
        return None
    if policy.when is not None and not policy.when(error):
        return None
    own = getattr(error, "retry_after", None)
    if isinstance(own, (int, float)) and 0 <= own <= MAX_DURATION_SECONDS:
        return float(own)
    # The exponent is capped, so that the power cannot overflow long before max_delay cuts it.
    full = min(policy.max_delay, policy.delay * policy.backoff ** min(attempt - 1, 64))
    return full * (1 - policy.jitter * chance)
