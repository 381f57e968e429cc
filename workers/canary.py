"""A prompt whose answer is known from the first load: it shows whether an engine woke up whole."""

import asyncio

from workers.engines.engine import Engine, EngineError, RequestError
from workers.messages import ChatMessage, Completion, Request, Sampling

TOKENS = 12
TIMEOUT_S = 60.0
_REQUEST = Request(
    id="canary",
    messages=(ChatMessage(role="user", content="Count from one to ten in words, then name the four seasons."),),
    sampling=Sampling(temperature=0.0, max_tokens=TOKENS),
)


async def sing(engine: Engine) -> str | None:
    """What an idle engine says to the canary prompt, greedily; None: it takes no such prompt. Raises EngineError."""
    completion: Completion | None = None
    deltas = engine.generate(_REQUEST, stream=False)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async for delta in deltas:
                completion = delta.completion or completion
    except TimeoutError:
        raise EngineError(f"the canary prompt was not answered within {TIMEOUT_S:.0f} s") from None
    except RequestError:
        return None
    finally:
        await deltas.aclose()
    if completion is None:
        raise EngineError("the canary prompt was not answered")
    return completion.text
