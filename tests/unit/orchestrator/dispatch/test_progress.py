"""Progress messages as they come."""

from orchestrator.dispatch import progress
from workers.messages import Completion, Finished, LoadEvent, Progress, WorkerState


def test_a_message_is_read_without_nul_and_with_texts_about_it() -> None:
    state = WorkerState(worker="w", at=0.0, device="cpu", engines=("stub",))
    said = Completion(id="unit-1", text=r"\u0000 ends" + "\0 a string", choices=({"text": "\0"},))
    told = Progress(
        state=state,
        finished=(Finished(chunk_id=1, completion=said),),
        loads=(LoadEvent(model_key="m", seconds=1.0, error="bad\0 file"),),
    )
    read = progress.read(told.model_dump_json())
    assert read.finished[0].completion == said.model_copy(
        update={"text": r"\u0000 ends a string", "choices": ({"text": ""},)}
    )
    assert read.loads[0].error == "bad file"
    assert read.state == state


DONE, FAILED, DIED = (False, None), (True, None), (True, "w0")


def test_a_model_is_given_up_after_failed_loads_in_a_row_and_later_if_workers_died_in_them() -> None:
    assert progress.hopeless([FAILED, FAILED, FAILED]) == "loading failed 3 times in a row"
    assert progress.hopeless([FAILED, FAILED, DONE, FAILED]) is None
    assert progress.hopeless([DIED] * 4) is None
    assert progress.hopeless([DIED] * 5) == "loading it killed a worker 5 times in a row"
    assert progress.hopeless([DIED] * 4 + [DONE, DIED]) is None


def test_a_machine_that_goes_down_with_all_its_workers_in_a_load_says_nothing_of_the_model() -> None:
    down = [(True, f"w{number}") for number in range(8)]
    assert progress.hopeless(down * 4) is None
    assert progress.hopeless(down * 5) is not None


def test_deaths_of_workers_and_failures_that_engines_told_are_counted_apart() -> None:
    assert progress.hopeless([DIED, FAILED, DIED, FAILED, DIED, DIED]) is None
    assert progress.hopeless([DIED, FAILED, DIED, FAILED, DIED, DIED, FAILED]) is not None
