"""What requests share: the gateway, opened with the application and closed with it."""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from orchestrator.online.gateway import Gateway
from orchestrator.settings import Settings


class State(TypedDict):
    """The lifespan's state: what `request.state` holds."""

    gateway: Gateway


def _gateway(request: Request) -> Gateway:
    return cast("Gateway", request.state.gateway)


def _settings(gateway: Annotated[Gateway, Depends(_gateway)]) -> Settings:
    return gateway.settings


GatewayDep = Annotated[Gateway, Depends(_gateway)]
SettingsDep = Annotated[Settings, Depends(_settings)]
