"""What requests share: the gateway, opened with the application and closed with it, and what is read for all."""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api.errors import ApiError
from api.watching import Watching
from orchestrator.online.gateway import Gateway
from orchestrator.settings import Settings


class State(TypedDict):
    """The lifespan's state: what `request.state` holds."""

    gateway: Gateway
    watching: Watching


def _gateway(request: Request) -> Gateway:
    """As whoever asks has it: a tenant finds its own alone."""
    return cast("Gateway", request.state.gateway).of(request.scope["owner"])


def _settings(gateway: Annotated[Gateway, Depends(_gateway)]) -> Settings:
    return gateway.settings


def _operator_alone(request: Request) -> None:
    if request.scope["owner"] is not None:
        raise ApiError(403, "this is the operator's alone (MUSTER_API_KEY), not a tenant's", code="operator_alone")


def _watching(request: Request) -> Watching:
    return cast("Watching", request.state.watching)


OPERATOR_ALONE = Depends(_operator_alone)
"""Of routes that change what all tenants share, or tell about all of them."""
GatewayDep = Annotated[Gateway, Depends(_gateway)]
WatchingDep = Annotated[Watching, Depends(_watching)]
SettingsDep = Annotated[Settings, Depends(_settings)]
