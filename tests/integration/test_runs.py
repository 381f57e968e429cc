"""Runs from submission to report, on real servers, with workers that are real or say what a test needs."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator import metrics, prompts, recruiting
from orchestrator.pool import pool, question_sets, registration
from orchestrator.pool.pool import Pool
from orchestrator.recruiting.limits import Limits
from orchestrator.recruiting.values import Answered, Ask, Recruit, Recruiter, Recruitment
from orchestrator.runs import events, report, runs
from orchestrator.runs import lines as run_lines
from orchestrator.runs.stager import Stager
from orchestrator.settings import Settings
from orchestrator.storage.tables import RunRow, SynthesisTrialsRow
from orchestrator.version import VERSION
from tests import seeds
from tests.driving import Driver
from tests.fake_worker import FakeWorker
from tests.worker_process import WorkerProcess
from workers.messages import Completion

UNITS = 24 * 4
"""Of a run's 24 lines: the baselines have every line answered by all four experts."""
TWO_MODELS = {"ada": "stub:one", "bob": "stub:one", "cyd": "stub:two", "dee": "stub:two"}


@pytest.fixture
def driver(engine: sa.Engine, settings: Settings, tmp_path: Path) -> Iterator[Driver]:
    quick = settings.model_copy(
        update={
            "experts_file": tmp_path / "none.toml",
            "question_set": seeds.SET_NAME,
            "lease_s": 3.0,
            "chunk_units": 16,
        }
    )
    driving = Driver(engine, quick)
    yield driving
    driving.close()


class OneByOne(Recruiter):
    """Recruits ada, then cyd."""

    def recruit(
        self,
        asks: Sequence[Ask],
        *,
        k: int,
        seeds: Sequence[int],
        experts: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> list[Recruitment]:
        first = Recruit(expert="ada", suitability=1.0, weight=1.0)
        return [Recruitment(strategy="one-by-one", recruits=(first,)) for _ in asks]

    def more(self, ask: Ask, recruitment: Recruitment, answered: Sequence[Answered]) -> tuple[Recruit, ...]:
        return (Recruit(expert="cyd", suitability=0.5, weight=0.5),) if len(answered) == 1 else ()


def submit(driver: Driver, lines: int = 24, *, sources: dict[str, str] | None = None, **wanted: Any) -> RunRow:
    with driver.session() as session:
        pool = seeds.live_pool(session, sources or TWO_MODELS)
        options: dict[str, Any] = {"k": 2, "fusion": "vote", "annotation": "embedding", **wanted}
        return runs.submit_benchmark(
            session, settings=driver.settings, pool=pool, name="test", questions=seeds.questions(lines), **options
        )


def test_a_benchmark_over_two_models_on_one_worker_makes_two_loads(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    with WorkerProcess(redis_url, tmp_path):
        run = submit(driver, 60)
        driver.until(lambda: driver.is_done(run.id))
    with driver.session() as session:
        built = runs.get(session, run.id).report
    lines = driver.lines(run.id)
    assert built is not None
    assert built["loads"]["made"] == built["loads"]["planned"] == 2
    assert built["lines"] == {"total": 60, "done": 60, "failed": 0}
    assert [line["position"] for line in lines] == list(range(60))
    assert built["accuracy"]["value"] == pytest.approx(sum(line["correct"] for line in lines) / 60, abs=1e-6)
    assert all(len(line["completions"]) == 4 for line in lines)


def test_the_report_compares_with_baselines_on_the_same_lines(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    with driver.session() as session:
        built = runs.get(session, run.id).report
    assert built is not None
    compared = built["baselines"]
    assert (compared["lines"], compared["experts"], compared["extra_calls"]) == (24, 4, 48)
    assert compared["oracle"]["value"] == compared["majority_all"]["value"] == built["accuracy"]["value"] == 1.0
    assert compared["versus"]["best_single"] == {"value": 0.0, "ci95": [0.0, 0.0], "n": 24}
    assert compared["best_single"]["chosen_on"] == "profile"
    assert sum(expert["recruited"] for expert in built["per_expert"].values()) == 48


def test_without_baselines_only_recruits_are_asked(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, baselines=False)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    with driver.session() as session:
        built = report.build(session, run.id)
    assert built["units"]["calls"] == 48
    assert "without baselines" in built["baselines"]["note"]


def test_an_aggregator_merges_answers_that_are_not_voted_on(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 12, fusion="aggregate", aggregator="cyd")
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    with driver.session() as session:
        built = runs.get(session, run.id).report
    lines = driver.lines(run.id)
    assert {line["fused"]["method"] for line in lines} == {"aggregate"}
    assert built is not None
    assert built["stages"]["fuse"]["calls"] == 12
    assert built["loads"]["made"] == built["loads"]["planned"] == 2


def test_skills_are_named_by_an_llm_and_fall_back_to_the_embedding(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 6, annotation="llm")
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    lines = driver.lines(run.id)
    assert sum(each["stage"] == "annotate" for each in lines[0]["completions"]) == 5
    assert "own embedding" in lines[0]["decision"]["annotation_note"]


def test_an_annotator_that_was_set_aside_is_not_asked(driver: Driver, fake: FakeWorker) -> None:
    """The embedding names the skills, as if all its samples had failed."""
    run = submit(driver, 6, annotation="llm", k=1, baselines=False)
    annotator = run.pinned["annotator"]
    driver.scalar("UPDATE expert SET state = 'quarantined' WHERE name = :name RETURNING 1", name=annotator)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    lines = list(run_lines.results(driver.session, run.id))
    assert {each["stage"] for line in lines for each in line["completions"]} == {"generate"}
    assert all("own embedding" in line["decision"]["annotation_note"] for line in lines)


def test_the_same_message_read_twice_changes_nothing(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 4, baselines=False)
    driver.until(lambda: fake.held, also=fake.take)
    chunk = fake.held[0]
    for _ in range(3):
        fake.finish(chunk)
    driver.step()
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'") == len(chunk.requests)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    assert driver.scalar("SELECT sum(attempts + losses) FROM unit") == 0


def test_a_lost_workers_units_are_tried_again_and_its_late_report_is_refused(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 4, baselines=False)
    driver.until(lambda: fake.held, also=fake.take)
    fake.say()
    (old,) = fake.held
    fake.held = []  # from now on no progress mentions it
    driver.until(lambda: driver.scalar("SELECT count(*) FROM chunk WHERE state = 'lost'"), also=fake.say)
    driver.until(lambda: fake.held, also=fake.take)
    fake.finish(old)
    driver.step()
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'") == 0
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done' AND losses = 1") == len(old.requests)


def test_a_killed_workers_units_are_done_by_the_next(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with WorkerProcess(redis_url, tmp_path, "--bulk-sequences", "4") as worker:
        run = submit(driver, 40, sources={"ada": "stub:slow?latency_s=0.05", "bob": "stub:slow?latency_s=0.05"})
        driver.until(lambda: driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'"))
        worker.process.kill()
        worker.process.wait()
        before = driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'")
        worker.start()
        driver.until(lambda: driver.is_done(run.id), timeout_s=30)
    assert isinstance(before, int)
    assert before < 80
    assert driver.scalar("SELECT count(*) FROM unit WHERE state = 'done'") == 80
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL") == 40


def test_a_cancelled_run_keeps_what_is_done_and_stops_the_rest(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with WorkerProcess(redis_url, tmp_path, "--bulk-sequences", "2") as worker:
        run = submit(driver, 40, sources={"ada": "stub:slow?latency_s=0.1"}, k=1)
        driver.until(lambda: driver.scalar("SELECT count(*) FROM instance WHERE stage = 'done'"))
        with driver.session() as session:
            runs.cancel(session, run.id)
        driver.until(lambda: driver.is_done(run.id), timeout_s=5)
        driver.until(lambda: not worker.progress()[-1].chunks, timeout_s=5)
    assert driver.status(run.id) == "cancelled"
    kept = driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL")
    assert isinstance(kept, int)
    assert 0 < kept < 40
    assert driver.scalar("SELECT count(*) FROM instance WHERE error = 'cancelled'") == 40 - kept
    totals = driver.scalar("SELECT sum((each->>'units')::int) FROM run, jsonb_array_elements(totals->'units') AS each")
    assert totals == driver.scalar("SELECT count(*) FROM unit")


def test_a_model_that_cannot_be_loaded_is_set_aside_and_the_next_expert_is_recruited(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    with WorkerProcess(redis_url, tmp_path):
        sources = {"ada": "stub:good", "bad": "stub:broken?fail_load=no+memory", "cyd": "stub:good"}
        run = submit(driver, 20, sources=sources, baselines=False)
        driver.until(lambda: driver.is_done(run.id))
    assert driver.status(run.id) == "completed"
    assert driver.scalar("SELECT state || ': ' || reason FROM expert WHERE name = 'bad'") == "quarantined: no memory"
    assert driver.scalar("SELECT count(*) FROM instance WHERE error IS NULL") == 20
    assert driver.scalar("SELECT count(*) FROM unit WHERE expert <> 'bad' AND state = 'done'") == 40
    instead = driver.scalar("SELECT count(*) FROM unit WHERE expert = 'bad'")
    assert instead == driver.scalar("SELECT count(*) FROM unit WHERE round = 1")
    replaced = "SELECT count(*) FROM instance WHERE decision->>'recruits' LIKE '%instead of bad%'"
    assert instead == driver.scalar(replaced)


def test_a_line_that_every_expert_leaves_without_an_answer_is_an_error(
    driver: Driver, redis_url: str, tmp_path: Path
) -> None:
    with WorkerProcess(redis_url, tmp_path):
        run = submit(driver, 4, sources={"mute": "stub:mute?says=", "shy": "stub:shy?says=I+would+rather+not+say."})
        driver.until(lambda: driver.is_done(run.id))
    assert driver.scalar("SELECT count(*) FROM instance WHERE NOT correct AND error LIKE 'no expert answered:%'") == 4
    for name in ("mute", "shy"):
        why = f"%{name}: gave no readable answer%"
        assert driver.scalar("SELECT count(*) FROM instance WHERE error LIKE :why", why=why) == 4


@pytest.mark.parametrize(("k", "baselines"), [(2, False), (2, True), (1, False)])
def test_others_answer_in_place_of_an_expert_that_cannot_be_loaded(
    driver: Driver, redis_url: str, tmp_path: Path, k: int, baselines: bool
) -> None:
    sources = {"ada": "stub:good", "bad": "stub:broken?fail_load=no+memory", "cyd": "stub:good"}
    with WorkerProcess(redis_url, tmp_path):
        run = submit(driver, 20, sources=sources, k=k, strategy="random", baselines=baselines)
        driver.until(lambda: driver.is_done(run.id))
    lines = list(run_lines.results(driver.session, run.id))
    asked_in_vain = 0
    for line in lines:
        recruits = {recruit["expert"]: recruit["why"] for recruit in line["decision"]["recruits"]}
        answered = {each["expert"] for each in line["completions"] if each["state"] == "done"}
        assert len(recruits) == k
        assert recruits.keys() <= answered <= {"ada", "cyd"}
        assert (line["error"], line["fused"]["note"].count("bad")) == (None, 0)
        asked_in_vain += any("instead of bad: its model cannot be loaded" in why for why in recruits.values())
        experts = [each["expert"] for each in line["completions"]]
        assert len(experts) == len(set(experts))
    assert asked_in_vain > 0
    # Once, or for each of the chunks that were on their way by then.
    assert driver.scalar("SELECT count(*) FROM load WHERE error IS NOT NULL") in (1, 2)


def test_an_unanswerable_line_fails_alone(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with WorkerProcess(redis_url, tmp_path):
        with driver.session() as session:
            pool = seeds.live_pool(session, TWO_MODELS)
            asked = [*seeds.questions(5), seeds.question(9, "history", marks="[stub:error]", prefix="bad")]
            run = runs.submit_benchmark(session, settings=driver.settings, pool=pool, name="t", questions=asked, k=2)
        driver.until(lambda: driver.is_done(run.id))
    failed = [line for line in driver.lines(run.id) if line["error"]]
    assert [line["id"] for line in failed] == ["bad9"]
    assert "stub:error" in failed[0]["error"]


def test_a_profile_run_brings_an_expert_into_the_pool(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with driver.session() as session:
        seeds.question_set(session)
        for name in ("ada", "bob"):
            seeds.expert(session, name, f"stub:{name}?p=0.6&q=0.6", state="registered")
    with WorkerProcess(redis_url, tmp_path):
        driver.until(lambda: driver.scalar("SELECT count(*) FROM expert WHERE state = 'live'") == 2)
        driver.until(lambda: driver.scalar("SELECT count(DISTINCT expert_id) FROM aggregator_score") == 2)
    assert driver.scalar("SELECT count(*) FROM profile") == 2
    assert driver.scalar("SELECT count(*) FROM run WHERE kind = 'aggregator'") == 1


def profiled(driver: Driver, source: str) -> Pool:
    """Three equal experts, profiled, and tested as aggregators."""
    with driver.session() as session:
        seeds.question_set(session)
        for name in ("ada", "bob", "cyd"):
            seeds.expert(session, name, f"stub:{name}?{source}", state="registered")
    driver.until(lambda: driver.scalar("SELECT count(*) FROM run WHERE kind = 'aggregator' AND status = 'completed'"))
    with driver.session() as session:
        return pool.load(session, question_set=seeds.SET_NAME)


@pytest.mark.parametrize(("merges", "method"), [(1.0, "aggregate"), (0.0, "vote")])
def test_answers_are_merged_where_the_aggregator_test_found_that_it_pays(
    driver: Driver, redis_url: str, tmp_path: Path, merges: float, method: str
) -> None:
    with WorkerProcess(redis_url, tmp_path):
        members = profiled(driver, f"p=0.4&q=0.4&merges={merges}")
        with driver.session() as session:
            asked = seeds.questions(30)
            run = runs.submit_benchmark(
                session, settings=driver.settings, pool=members, name="t", questions=asked, k=3, fusion="auto"
            )
        driver.until(lambda: driver.is_done(run.id))
    with driver.session() as session:
        (test,) = runs.listed(session, kind="aggregator")
        built = runs.get(session, run.id).report
    lines = driver.lines(run.id)
    assert test.report is not None
    assert {found["right"] for found in test.report["natural"].values()} == {18 if merges else 0}
    assert built is not None
    methods = built["fusion"]["per_method"]
    if method == "vote":
        assert "aggregate" not in methods
        assert not run.pinned["stages"]["fuse"]
        return
    assert run.pinned["stages"]["fuse"]
    merged = methods["aggregate"]
    assert merged["lines"] > 15
    assert merged["accuracy"] == 1.0 > merged["first_recruit"]
    assert merged["gain"] == pytest.approx(1 - merged["first_recruit"], abs=1e-3)
    assert merged["expected_gain"] > 0.1
    notes = {line["fused"]["note"] for line in lines if line["fused"]["method"] == "aggregate"}
    assert all("is known to gain here" in note for note in notes)


def test_a_run_goes_by_the_trials_that_it_pinned(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with WorkerProcess(redis_url, tmp_path):
        members = profiled(driver, "p=0.4&q=0.4&merges=1")
    pins = pool.pins(members)
    strategy = driver.settings.strategy
    assert members.synthesis.gaining(strategy)
    with driver.session() as session:
        ids = {name: expert.id for name, expert in members.experts.items()}
        set_row = question_sets.newest(session, seeds.SET_NAME)
        for expert_id in ids.values():
            session.add(
                SynthesisTrialsRow(
                    expert_id=expert_id, question_set_id=set_row.id or 0, run_id="aggr-later", strategy=strategy
                )
            )
    with driver.session() as session:
        now = pool.load(session, question_set=seeds.SET_NAME)
        assert now.version == pool.current_version(session, question_set=seeds.SET_NAME) != members.version
        assert now.synthesis.gaining(strategy) == ()
        then = pool.pinned(session, pins)
    assert then.version == members.version
    assert then.synthesis.gaining(strategy) == members.synthesis.gaining(strategy)


def test_trials_count_for_the_experts_that_answered_in_them(driver: Driver, redis_url: str, tmp_path: Path) -> None:
    with WorkerProcess(redis_url, tmp_path):
        members = profiled(driver, "p=0.4&q=0.4&merges=1")
    with driver.session() as session:
        fewer = pool.load(session, question_set=seeds.SET_NAME, names=["ada", "bob"])
    assert members.synthesis.gaining(driver.settings.strategy)
    assert fewer.synthesis.gaining(driver.settings.strategy) == ()


def test_an_expert_whose_answers_cannot_be_read_is_quarantined(driver: Driver, fake: FakeWorker) -> None:
    with driver.session() as session:
        seeds.question_set(session)
        seeds.expert(session, "mute", "stub:mute", state="registered")

    def mumble() -> None:
        for chunk in fake.take():
            fake.finish(chunk, lambda request: Completion(id=request.id, text="hmm hmm " * 40))
        fake.say()

    driver.until(lambda: driver.scalar("SELECT state FROM expert") == "quarantined", also=mumble)
    assert "could be read in only 0 of 18" in str(driver.scalar("SELECT reason FROM expert"))


def test_a_quarantined_expert_is_profiled_anew_when_asked_for_and_is_live_again(
    driver: Driver, fake: FakeWorker
) -> None:
    with driver.session() as session:
        question_set = seeds.question_set(session)
        mended = seeds.expert(session, "mended", "stub:mended", state="quarantined")
        registration.profile(session, driver.settings, mended, question_set)
    driver.until(lambda: driver.scalar("SELECT state FROM expert") == "live", also=fake.work)


def test_live_experts_are_profiled_by_themselves_on_a_set_of_ones_own_and_anew_on_its_next_version(
    driver: Driver, fake: FakeWorker
) -> None:
    driver.stager.close()
    ours = driver.settings.model_copy(update={"question_set": "ours"})
    driver.stager = Stager(engine=driver.engine, settings=ours, load_embedder=seeds.WordEmbedder)
    profiles = "SELECT count(*) FROM profile JOIN question_set ON question_set_id = question_set.id WHERE name = 'ours'"

    def has(count: int) -> bool:
        return driver.scalar(profiles) == count

    with driver.session() as session:
        seeds.live_pool(session, {"ada": "stub:one"})
    for version, count in enumerate((6, 7), start=1):
        with driver.session() as session:
            question_sets.store(session, "ours", seeds.questions(count), seeds.WordEmbedder())
        driver.until(functools.partial(has, version), also=fake.work)


@pytest.mark.parametrize("baselines", [False, True])
def test_a_strategy_that_recruits_more_gets_another_round_and_nobody_answers_twice(
    driver: Driver, fake: FakeWorker, monkeypatch: pytest.MonkeyPatch, baselines: bool
) -> None:
    monkeypatch.setitem(recruiting.STRATEGIES, "one-by-one", lambda evidence: OneByOne(evidence=evidence))
    run = submit(driver, 6, strategy="one-by-one", k=1, baselines=baselines)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    lines = driver.lines(run.id)
    for line in lines:
        assert [recruit["expert"] for recruit in line["decision"]["recruits"]] == ["ada", "cyd"]
        assert [(each["expert"], each["round"]) for each in line["completions"] if each["stage"] == "generate"] == [
            ("ada", 0),
            ("cyd", 1),
        ]
        assert len(line["completions"]) == (4 if baselines else 2)
        assert line["answers"]["cyd"]["recruited"]


def test_a_key_gives_the_run_it_gave_before(driver: Driver) -> None:
    with driver.session() as session:
        pool = seeds.live_pool(session, TWO_MODELS)

    def submitted() -> str:
        with driver.session() as session:
            run = runs.submit_benchmark(
                session,
                settings=driver.settings,
                pool=pool,
                name="t",
                questions=seeds.questions(5),
                idempotency_key="same",
            )
        return run.id

    assert submitted() == submitted()
    assert driver.scalar("SELECT count(*) FROM instance") == 5


def test_progress_and_metrics_count_what_happened(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver)
    driver.until(lambda: driver.scalar("SELECT count(*) FROM unit WHERE state = 'sent'"))
    with driver.session() as session:
        seen = events.snapshot(session, run.id)
    assert seen["lines"]["total"] == 24
    assert sum(expert["sent"] for expert in seen["experts"].values()) > 0
    assert (seen["units_per_s"], seen["lines_per_s"], seen["eta_s"]) == (0, 0, None)  # nothing can be said yet
    driver.until(lambda: driver.scalar("SELECT count(*) FROM instance WHERE stage = 'done'"), also=fake.work)
    with driver.session() as session:
        seen = events.snapshot(session, run.id)
    done = sum(expert["done"] for expert in seen["experts"].values())
    assert 0 < done < UNITS
    assert 0 < seen["lines"]["done"] < 24
    assert seen["units_per_s"] == pytest.approx(done / seen["elapsed_s"], rel=0.05)
    assert seen["lines_per_s"] == pytest.approx(seen["lines"]["done"] / seen["elapsed_s"], rel=0.05)
    assert seen["eta_s"] == pytest.approx((UNITS - done) / seen["units_per_s"], rel=0.05, abs=0.1)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    with driver.session() as session:
        seen = events.snapshot(session, run.id)
        text = metrics.collect(session).decode()
    assert (seen["status"], seen["lines"]["done"], seen["eta_s"]) == ("completed", 24, None)
    assert 'muster_loads_total{model="stub:one",worker="fake"} 1.0' in text
    assert 'muster_units_total{stage="generate",state="done"} 48.0' in text


def test_lines_and_report_say_which_versions_they_are_of(driver: Driver, fake: FakeWorker) -> None:
    run = submit(driver, 3)
    driver.execute("UPDATE expert SET version = 7 WHERE name = 'ada'")  # later: the run has its own
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    assert {each["version"] for line in driver.lines(run.id) for each in line["completions"]} == {1}
    with driver.session() as session:
        built = runs.get(session, run.id).report
    assert built is not None
    assert (built["muster"], built["versions"]["prompts"]) == (VERSION, prompts.digest())


def test_a_report_warns_of_other_prompts_and_of_questions_that_were_profiled_on(
    driver: Driver, fake: FakeWorker
) -> None:
    with driver.session() as session:
        pool = seeds.live_pool(session, TWO_MODELS)
        known = [dataclasses.replace(each, id=f"known{n}") for n, each in enumerate(seeds.questions(2))]
        asked = [*known, seeds.question(99, "algebra", prefix="new")]
        run = runs.submit_benchmark(session, settings=driver.settings, pool=pool, name="t", questions=asked, k=2)
        plain = runs.submit_benchmark(session, settings=driver.settings, pool=pool, name="t", questions=asked[2:], k=2)
    driver.execute("UPDATE run SET pinned = jsonb_set(pinned, '{prompts}', '\"older\"') WHERE id = :id", id=run.id)
    driver.until(lambda: driver.is_done(run.id) and driver.is_done(plain.id), also=fake.work)
    with driver.session() as session:
        built, other = runs.get(session, run.id).report, runs.get(session, plain.id).report
    assert built is not None
    assert other is not None
    assert (built["in_question_set"], other["in_question_set"], other["warnings"]) == (2, 0, [])
    words, questions = built["warnings"]
    assert "submitted with the prompts older" in words
    assert "2 of its 3 questions stand word for word in the question set" in questions
    assert f"({seeds.SET_NAME}@1)" in questions


def test_who_reads_results_slowly_holds_no_connection(
    driver: Driver, fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lines, "BATCH", 2)
    run = submit(driver, 5)
    driver.until(lambda: driver.is_done(run.id), also=fake.work)
    reading = run_lines.results(driver.session, run.id)
    seen = []
    for line in reading:
        seen.append(line["position"])
        pool = driver.engine.pool
        assert isinstance(pool, sa.QueuePool)
        assert pool.checkedout() == 0
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"k": 9}, "k is 9, but the pool has 4"),
        ({"strategy": "guess"}, "no strategy 'guess'"),
        ({"fusion": "blend"}, "no fusion 'blend'"),
        ({"aggregator": "nobody"}, "'nobody' is not among"),
    ],
)
def test_a_run_that_cannot_work_is_refused(driver: Driver, wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(runs.RunRefused, match=complaint):
        submit(driver, **wanted)
    assert driver.scalar("SELECT count(*) FROM run") == 0
