"""What requests share: the gateway, opened with the application and closed with it, and what is read for all."""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api.watching import Watching
from orchestrator.online.gateway import Gateway
from orchestrator.settings import Settings


class State(TypedDict):
    """The lifespan's state: what `request.state` holds."""

    gateway: Gateway
    watching: Watching


def _gateway(request: Request) -> Gateway:
    return cast("Gateway", request.state.gateway)


def _settings(gateway: Annotated[Gateway, Depends(_gateway)]) -> Settings:
    return gateway.settings


def _watching(request: Request) -> Watching:
    return cast("Watching", request.state.watching)


GatewayDep = Annotated[Gateway, Depends(_gateway)]
WatchingDep = Annotated[Watching, Depends(_watching)]
SettingsDep = Annotated[Settings, Depends(_settings)]
