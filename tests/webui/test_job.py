"""Runs that are stopped, waited for and watched from other threads."""

from unlearn_core.progress import Progress
from unlearn_webui.job import Jobs


def test_a_job_is_known_only_while_it_lives() -> None:
    jobs = Jobs()
    with jobs.enter("task(a)") as job:
        assert jobs.all() == [job]
        job.progress = Progress("forgetting", 1, 2)
    assert jobs.all() == []


def test_stop_reaches_the_job_of_that_name_alone() -> None:
    jobs = Jobs()
    with jobs.enter("task(a)") as first, jobs.enter("task(b)") as second:
        jobs.stop("task(b)")
        assert (first.stopped, second.stopped) == (False, True)


def test_a_job_that_is_stopped_while_it_waits_in_the_hosts_queue_never_starts() -> None:
    jobs = Jobs()
    jobs.stop("task(later)")
    with jobs.enter("task(later)") as job:
        assert job.stopped


def test_stop_without_a_name_does_nothing() -> None:
    jobs = Jobs()
    jobs.stop("")
    with jobs.enter("") as job:
        assert not job.stopped


def test_stop_all_counts_waiting_and_working_jobs() -> None:
    jobs = Jobs()
    with jobs.enter() as first, jobs.enter() as second:
        second.works = True
        assert jobs.all() == [second, first]
        assert jobs.stop_all() == 2
        assert first.stopped
        assert second.stopped
    assert jobs.stop_all() == 0


def test_a_job_leaves_when_it_fails() -> None:
    jobs = Jobs()
    try:
        with jobs.enter("task(a)"):
            raise RuntimeError
    except RuntimeError:
        pass
    assert jobs.all() == []
