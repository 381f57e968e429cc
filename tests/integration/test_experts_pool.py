"""Experts in a real database: versions, states, the experts file, and the pool that comes of them."""

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from orchestrator.pool import definition, experts, experts_file, pool, question_sets
from orchestrator.pool.cache import PoolCache
from orchestrator.pool.experts_file import ABSENT
from orchestrator.storage import database
from orchestrator.storage.tables import ProfileRow
from tests import seeds

ONE = '[[expert]]\nname = "one"\nmodel = "stub:a"\n'
TWO = '[[expert]]\nname = "two"\nmodel = "stub:a"\nsystem_prompt = "Be two."\n'


def _load(engine: sa.Engine, path: Path, text: str) -> dict[str, str]:
    """What loading the file with this text changes."""
    path.write_text(text, encoding="utf-8")
    with database.session(engine) as session:
        return {change.expert: change.what for change in experts_file.sync(session, experts_file.read(path))}


def _current(engine: sa.Engine) -> dict[str, tuple[int, str]]:
    with database.session(engine) as session:
        return {row.name: (row.version, row.state) for row in experts.current(session)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experts.toml"


def test_loading_the_file_twice_changes_nothing_more(engine: sa.Engine, path: Path) -> None:
    assert _load(engine, path, ONE + TWO) == {"one": "added", "two": "added"}
    assert _load(engine, path, ONE + TWO) == {}
    assert _current(engine) == {"one": (1, "registered"), "two": (1, "registered")}


def test_a_changed_expert_is_a_new_version_and_a_described_one_is_not(engine: sa.Engine, path: Path) -> None:
    _load(engine, path, ONE + TWO)
    described = ONE + 'description = "The first."\n'
    assert _load(engine, path, described + TWO.replace("Be two", "Be three")) == {"one": "described", "two": "changed"}
    assert _current(engine) == {"one": (1, "registered"), "two": (2, "registered")}


def test_a_dropped_expert_is_parked_and_comes_back_with_its_profile(engine: sa.Engine, path: Path) -> None:
    with database.session(engine) as session:
        set_row = seeds.question_set(session)
    _load(engine, path, ONE + TWO)
    with database.session(engine) as session:
        row = experts.get(session, "two")
        assert row.id is not None
        assert set_row.id is not None
        experts.move(row, "live")
        session.add(ProfileRow(expert_id=row.id, question_set_id=set_row.id))
    assert _load(engine, path, ONE) == {"two": "parked"}
    with database.session(engine) as session:
        assert experts.get(session, "two").reason == ABSENT
    assert _load(engine, path, ONE + TWO) == {"two": "returned"}
    assert _current(engine)["two"] == (1, "live")


def test_the_file_leaves_alone_what_the_api_wrote(engine: sa.Engine, path: Path) -> None:
    _load(engine, path, ONE)
    with database.session(engine) as session:
        experts.register(session, definition.parse({"name": "guest", "model": "stub:g"}))
        experts.patch(session, "one", {"system_prompt": "Patched."})
    assert _load(engine, path, ONE) == {}
    assert _current(engine) == {"guest": (1, "registered"), "one": (2, "registered")}
    assert _load(engine, path, ONE.replace("stub:a", "stub:b")) == {"one": "changed"}


def test_an_expert_removed_through_the_api_stays_away(engine: sa.Engine, path: Path) -> None:
    _load(engine, path, ONE)
    with database.session(engine) as session:
        experts.remove(session, "one")
    assert _load(engine, path, ONE) == {}
    assert _current(engine) == {}


def test_a_file_with_a_mistake_changes_nothing(engine: sa.Engine, path: Path) -> None:
    _load(engine, path, ONE)
    path.write_text("[[expert]]\nname = 'one'\n", encoding="utf-8")
    with database.session(engine) as session:
        assert experts_file.follow(session, path) == []
    assert _current(engine) == {"one": (1, "registered")}


def test_a_name_is_taken_until_it_is_removed(engine: sa.Engine) -> None:
    written = definition.parse({"name": "one", "model": "stub:a"})
    with database.session(engine) as session:
        experts.register(session, written)
        with pytest.raises(experts.NameTaken):
            experts.register(session, written)
        experts.remove(session, "one")
        assert experts.register(session, written).version == 2
        assert [row.version for row in experts.versions(session, "one")] == [2, 1]


def test_a_patch_keeps_what_it_does_not_name(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        experts.register(
            session,
            definition.parse({"name": "one", "model": {"source": "stub:a", "context_tokens": 512}, "licence": "MIT"}),
        )
        row = experts.patch(session, "one", {"sampling": {"temperature": 0.1}, "model": {"dtype": "float32"}})
    assert (row.version, row.licence, row.sampling["temperature"]) == (2, "MIT", 0.1)
    assert (row.model["context_tokens"], row.model["dtype"], row.sampling["max_tokens"]) == (512, "float32", 512)


def test_a_removed_expert_goes_nowhere(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        row = experts.register(session, definition.parse({"name": "one", "model": "stub:a"}))
        experts.remove(session, "one")
        with pytest.raises(experts.IllegalMove):
            experts.move(row, "live")


def test_the_pool_is_rebuilt_exactly_as_it_was_pinned(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        before = seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"}, good={"ada": ["algebra"]})
        pinned = pool.pins(before)
    with database.session(engine) as session:
        experts.remove(session, "bob")
        experts.patch(session, "ada", {"system_prompt": "Other."})
    with database.session(engine) as session:
        assert pool.load(session, question_set=seeds.SET_NAME).experts == {}
        again = pool.pinned(session, pinned)
    assert again.version == before.version
    assert {name: expert.id for name, expert in again.experts.items()} == pinned["experts"]
    assert np.array_equal(again.evidence.correct, before.evidence.correct)
    assert again.evidence.answers == before.evidence.answers


def test_the_pool_is_loaded_and_fitted_once_until_it_changes(engine: sa.Engine) -> None:
    cache = PoolCache()
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one", "bob": "stub:two"})
        first = cache.current(session, question_set=seeds.SET_NAME)
        assert cache.current(session, question_set=seeds.SET_NAME) is first
        assert cache.recruiter(first, "paper") is cache.recruiter(first, "paper")
        experts.remove(session, "bob")
        second = cache.current(session, question_set=seeds.SET_NAME)
    assert set(second.experts) == {"ada"}
    assert second.version != first.version


def test_an_expert_that_was_never_asked_has_no_evidence(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        seeds.live_pool(session, {"ada": "stub:one"})
        seeds.expert(session, "new", "stub:two", state="live")
        loaded = pool.load(session, question_set=seeds.SET_NAME)
    column = loaded.evidence.correct[:, loaded.evidence.experts.index("new")]
    assert np.isnan(column).all()
    assert loaded.profile_versions["new"] == 0


def test_naming_an_expert_that_is_not_live_says_its_state(engine: sa.Engine) -> None:
    with database.session(engine) as session:
        seeds.question_set(session)
        row = seeds.expert(session, "ill", "stub:one", state="testing")
        experts.move(row, "quarantined", "its weights are broken")
        with pytest.raises(experts.ExpertNotLive, match=r"quarantined \(its weights are broken\)"):
            pool.load(session, question_set=seeds.SET_NAME, names=["ill"])


def test_the_same_questions_are_the_same_version(engine: sa.Engine) -> None:
    embedder = seeds.WordEmbedder()
    with database.session(engine) as session:
        first = question_sets.store(session, "ours", seeds.questions(4), embedder)
        same = question_sets.store(session, "ours", seeds.questions(4), embedder)
        other = question_sets.store(session, "ours", seeds.questions(5), embedder)
        assert first.id == same.id
        assert (first.version, other.version) == (1, 2)
        assert question_sets.newest(session, "ours").version == 2
        labelled = question_sets.labelled(session, first)
    assert labelled.questions == tuple(seeds.questions(4))
    assert labelled.embeddings.shape == (4, embedder.dimensions)
    assert labelled.skill_names == ("algebra", "chemistry", "history")
    assert np.allclose(np.linalg.norm(labelled.skill_embeddings, axis=1), 1)
