"""Submits a job to a Ray cluster, shows what it says, and submits it again where its driver or the head died.

    python -m cluster.submit -- python rayjobs/distill.py --dataset_path /shared/scans --output_dir /shared/first

As for `ray job submit`, RAY_API_SERVER_ADDRESS or RAY_ADDRESS says where the cluster is. A job that ends by itself, for
better or worse, or that is stopped, is not submitted again. Ctrl-C ends the watching; the job goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

POLL_S, ANSWER_S, LAST_WORDS_S = 2.0, 30.0, 10.0
FELL = "JOB_SUPERVISOR_ACTOR"
"""Ray's names for a node that fell with the driver begin so, for a head that booted as for one that did not fall."""
AWAY = (aiohttp.ClientError, OSError, RuntimeError)
"""Raised while a head is down, or boots."""
Submit = Callable[[str], None]
"""Hands the job in under a name."""


class Submission:
    """A job under one name, on a cluster that may be away for a while."""

    def __init__(self, client: JobSubmissionClient, name: str, patience_s: float) -> None:
        self.name, self._client, self._patience_s = name, client, patience_s
        self._answered, self._shown = time.monotonic(), 0

    async def hand_in(self, submit: Submit) -> None:
        """Submits it, once, however often that takes trying. Raises TimeoutError."""
        while True:
            try:
                if await self._told() is None:  # else it got through, and the answer did not
                    await asyncio.to_thread(submit, self.name)
                return
            except AWAY:
                await self._wait()

    async def end(self) -> JobDetails | None:
        """Prints what it says until it ends. Returns: how; None where the head forgot it. Raises TimeoutError."""
        showing = asyncio.create_task(self._show())
        while True:
            try:
                told = await self._told()
            except AWAY:
                showing.cancel()  # it may never learn that the other end is gone
                await self._wait()
                continue
            self._answered = time.monotonic()
            if told is None or told.status.is_terminal():
                await asyncio.wait({showing}, timeout=LAST_WORDS_S)
                showing.cancel()
                return told
            if showing.done():
                showing = asyncio.create_task(self._show())
            await asyncio.sleep(POLL_S)

    async def _wait(self) -> None:
        if (away_s := time.monotonic() - self._answered) > self._patience_s:
            raise TimeoutError(f"the cluster has not served {self.name} for {away_s / 60:.0f} minutes")
        await asyncio.sleep(POLL_S)

    async def _told(self) -> JobDetails | None:
        """What the head knows of it. Raises one of AWAY; AuthenticationError."""
        ask = partial(self._client._do_request, "GET", f"/api/jobs/{self.name}", timeout=ANSWER_S)
        answer = await asyncio.to_thread(ask)
        if answer.status_code not in (200, 404):
            raise RuntimeError(answer.text)
        return JobDetails(**answer.json()) if answer.status_code == 200 else None

    async def _show(self) -> None:
        """Prints what has not been shown; Ray tells all from the start."""
        seen = 0
        with contextlib.suppress(*AWAY):
            async for words in self._client.tail_job_logs(self.name):
                print(words[max(0, self._shown - seen) :], end="", flush=True)
                seen += len(words)
                self._shown = max(self._shown, seen)


def lost(told: JobDetails | None) -> bool:
    """Whether something took a job from its cluster that could go on: not where it ended by itself, or was stopped."""
    if told is None:
        return True
    code = told.driver_exit_code or 0
    return told.status == JobStatus.FAILED and ((told.error_type or "").startswith(FELL) or code < 0 or code > 128)


async def until_done(client: JobSubmissionClient, submit: Submit, told: argparse.Namespace) -> int:
    """Returns: an exit status, the job's own where it has one. Raises TimeoutError, AuthenticationError."""
    job = Submission(client, told.submission_id, 60 * told.patience_min)
    submit(job.name)
    for again in range(told.retries + 1):
        print(f"Submitted as {job.name}; Ctrl-C ends the watching, ray job stop {job.name} the job", flush=True)
        end = await job.end()
        if end is not None and end.status == JobStatus.SUCCEEDED:
            return 0
        why = "the head forgot it" if end is None else f"{end.status}: {end.message or ''}".splitlines()[0]
        print(f"\n{job.name}: {why}", flush=True)
        if not lost(end):
            return (end and end.driver_exit_code) or 1
        if again < told.retries:
            job = Submission(client, f"{told.submission_id}-again-{again + 1}", 60 * told.patience_min)
            await job.hand_in(submit)
    print(f"error: lost {told.retries + 1} times, see --retries; the same command again resumes", file=sys.stderr)
    return 1


def main() -> int:
    """Reads the command line and does it."""
    usage = "python -m cluster.submit [OPTIONS] -- python rayjobs/distill.py ..."
    parser = argparse.ArgumentParser(usage=usage, description=__doc__.splitlines()[0])
    parser.add_argument("--retries", type=int, default=5, help="how often it is submitted again (%(default)s)")
    parser.add_argument(
        "--patience_min", type=float, default=30, help="minutes that the cluster may not answer (%(default)g)"
    )
    parser.add_argument("--working_dir", default=".", help="the folder that is sent along")
    parser.add_argument("--submission_id", default=f"job-{secrets.token_hex(4)}", help="its name, by default job-...")
    parser.add_argument("command", nargs="+", help="what the job runs")
    told = parser.parse_args()
    if told.retries < 0:
        parser.error(f"--retries={told.retries}; give 0 or more")
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of each connection
    client = JobSubmissionClient()

    def submit(name: str) -> None:  # the folder each time anew: a head that booted has no longer what was sent
        environment = {"working_dir": told.working_dir}
        client.submit_job(entrypoint=shlex.join(told.command), runtime_env=environment, submission_id=name)

    return asyncio.run(until_done(client, submit, told))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nThe job goes on")
    except (ValueError, ConnectionError, TimeoutError, AuthenticationError, RuntimeError) as error:
        sys.exit(f"error: {error}")
