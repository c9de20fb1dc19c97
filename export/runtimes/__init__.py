"""Runtimes by name. A runtime is imported when it is asked for."""

from importlib import import_module

from limpq_deploy.calibration.errors import RuntimeUnavailable, SettingError
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.targets import BUILDERS, runtime_record
from limpq_deploy.export.runtimes.base import Runtime


def runtime_named(name: str, options: EngineOptions | None = None) -> Runtime:
    """The runtime of this name, usable here or not (see `Runtime.unavailable`). ``options``: how it builds engines.

    Raises ModelError for unknown names, SettingError for options where the runtime builds no engines,
    RuntimeUnavailable for one that nothing here drives.
    """
    record = runtime_record(name)
    if options is not None and not record.engines:
        raise SettingError(
            f"the runtime is {name}, which builds no engines: settings of TensorRT's builder (batch range, float type, "
            "TF32, workspace, level, number of builds) have no effect; leave them away, or give --runtime "
            f"{' or '.join(BUILDERS)}"
        )
    if record.code is None:
        raise RuntimeUnavailable(f"nothing here drives {record.title}: use --no-engine, which writes its files")
    module, cls = record.code.split(":")
    found = getattr(import_module(f"limpq_deploy.export.runtimes.{module}"), cls)
    runtime: Runtime = found(options) if record.engines else found()
    return runtime
