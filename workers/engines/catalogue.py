"""Which engine serves which model."""

from urllib.parse import urlsplit

from workers.engines import vllm, wire
from workers.engines.engine import Engine, ModelError
from workers.engines.hosted import HostedEngine
from workers.engines.stub import StubEngine, StubOptions
from workers.messages import Model
from workers.settings import WorkerSettings


def open_engine(model: Model, settings: WorkerSettings, *, whole: bool = False) -> Engine:
    """An engine for the model, not loaded yet. `whole`: it gets all of the device that engines may have, not a part.

    Raises ModelError if this worker cannot run it.
    """
    if model.engine not in settings.engines:
        raise ModelError(
            f"worker {settings.name} (device {settings.device}) runs {' and '.join(settings.engines)} models,"
            f" but {urlsplit(model.source)._replace(query='').geturl()} needs {model.engine}"
        )
    if model.engine == "remote":
        from workers.engines.remote import RemoteEngine  # its HTTP stack costs a device's worker half a second

        return RemoteEngine(model)
    if model.engine == "vllm":
        return vllm.open_engine(model, settings, whole=whole)
    if not StubOptions.read(model.source).child:
        return StubEngine(model)
    return HostedEngine(
        module="workers.engines.stub_host",
        start=wire.Start(model=model, data_dir=str(settings.data_dir), sequences=settings.sequences),
        worker=settings.name,
        environment={},
        stall_s=settings.stall_s,
        load_timeout_s=settings.load_timeout_s,
    )
