"""What is changed, and which tests may notice.

A mutant is tried with those tests below that reach the changed statement, the quickest first. They run within one
process, in a fork of it: so there are none here that start processes, measure, or wait for real time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: The modules whose mistakes hurt most: what becomes of runs, the order of operations, retries, queues.
MODULES: Final = tuple(
    f"stepwell.{package}.{path.stem}"
    for package in ("model", "replay", "worker")
    for path in sorted((ROOT / "src" / "stepwell" / package).glob("*.py"))
    if path.stem != "__init__"
)

#: Test files below ``tests/``, by what they are about.
TESTS: Final = (
    # one module, without an engine
    "test_lifecycle.py",
    "test_retry_policies.py",
    "test_clock.py",
    "test_names_only.py",
    "test_queue_policy.py",
    "test_advice.py",
    "test_pace.py",
    "test_undoing.py",
    "test_source_location.py",
    # runs
    "test_engine.py",
    "test_steps.py",
    "test_timers.py",
    "test_messages.py",
    "test_children.py",
    "test_cancel.py",
    "test_retry_runs.py",
    "test_transactions.py",
    "test_bad_input.py",
    "test_wall_clock.py",
    "test_reasons.py",
    "test_acts.py",
    "test_ended_runs.py",
    "test_failure_log.py",
    "test_code_errors.py",
    "test_child_ids.py",
    "test_deployments.py",
    "test_unrecordable_results.py",
    "test_spinning.py",
    # queues
    "test_queues.py",
    "test_queues_limits.py",
    "test_queues_deadlines.py",
    "test_queues_partitions.py",
    "test_permits_given_up.py",
    # what is in memory, and whose it is
    "test_memory.py",
    "test_loading_order.py",
    "test_sharing.py",
    "test_output_gate.py",
    "test_lost_answers.py",
    "test_refused_writes.py",
    "test_patience.py",
    # replay
    "test_asyncio.py",
    "test_anyio.py",
    "test_determinism.py",
    "test_harmless_edits.py",
    "test_sync_workflows.py",
    "test_cancelled_tasks.py",
    "test_current.py",
    "test_context_variables.py",
    "test_isolation.py",
    "test_loop_methods.py",
    "test_nothing_to_wait_for.py",
    "test_traps.py",
    "test_blocking_anywhere.py",
    "test_left_behind.py",
)
