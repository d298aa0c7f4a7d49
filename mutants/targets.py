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
    "model/test_lifecycle.py",
    "model/test_retry_policies.py",
    "model/test_clock.py",
    "model/test_calendar.py",
    "model/test_durations.py",
    "engine/test_names_only.py",
    "worker/test_queue_policy.py",
    "replay/test_advice.py",
    "engine/test_pace.py",
    "worker/test_undoing.py",
    "worker/test_continuations.py",
    "worker/test_due.py",
    "worker/test_journal_length.py",
    "operations/test_table.py",
    "replay/test_source_location.py",
    # runs
    "engine/test_engine.py",
    "operations/test_steps.py",
    "operations/test_timers.py",
    "operations/test_messages.py",
    "operations/test_children.py",
    "operations/test_map.py",
    "operations/test_run_step.py",
    "operations/test_values.py",
    "operations/test_streams.py",
    "operations/test_queries.py",
    "operations/test_updates.py",
    "operations/test_promises.py",
    "operations/test_other_runs.py",
    "operations/test_saga.py",
    "engine/test_cancel.py",
    "engine/test_retry_runs.py",
    "operations/test_transactions.py",
    "engine/test_bad_input.py",
    "engine/test_wall_clock.py",
    "engine/test_reasons.py",
    "engine/test_acts.py",
    "engine/test_ended_runs.py",
    "engine/test_failure_log.py",
    "engine/test_code_errors.py",
    "engine/test_child_ids.py",
    "engine/test_deployments.py",
    "engine/test_unrecordable_results.py",
    "worker/test_spinning.py",
    "engine/test_cut_off_attempts.py",
    "engine/test_due_for_nothing.py",
    "engine/test_crash_loops.py",
    "engine/test_unretrieved_tasks.py",
    "engine/test_retention.py",
    "engine/test_run_until_idle.py",
    # queues
    "engine/test_queues.py",
    "engine/test_queues_limits.py",
    "engine/test_queues_deadlines.py",
    "engine/test_queues_partitions.py",
    "engine/test_queue_starts.py",
    "worker/test_permits_given_up.py",
    # what is in memory, and whose it is
    "engine/test_memory.py",
    "engine/test_loading_order.py",
    "engine/test_letting_go.py",
    "store/test_sharing.py",
    "engine/test_output_gate.py",
    "engine/test_lost_answers.py",
    "engine/test_refused_writes.py",
    "proof/test_patience.py",
    # replay
    "engine/test_asyncio.py",
    "engine/test_anyio.py",
    "engine/test_determinism.py",
    "engine/test_harmless_edits.py",
    "engine/test_sync_workflows.py",
    "engine/test_cancelled_tasks.py",
    "engine/test_current.py",
    "engine/test_context_variables.py",
    "engine/test_isolation.py",
    "replay/test_loop_methods.py",
    "engine/test_nothing_to_wait_for.py",
    "engine/test_traps.py",
    "engine/test_blocking_anywhere.py",
    "engine/test_left_behind.py",
    "engine/test_abandoned_generators.py",
    "replay/test_closing.py",
    # the life of a run
    "engine/test_attributes.py",
    "engine/test_bulk_acts.py",
    "engine/test_chapters.py",
    "engine/test_forks.py",
    "engine/test_id_policies.py",
    "engine/test_jobs.py",
    "engine/test_on_failure.py",
    "engine/test_pauses.py",
    "engine/test_rewinding.py",
    "engine/test_schedules.py",
    "engine/test_settling.py",
    "engine/test_versions.py",
)
