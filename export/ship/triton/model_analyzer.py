"""A sweep for NVIDIA's Model Analyzer: which configurations of a shipped model it should time.

The file names no paths: those are given on the command line (docs/serving.md). Fields are those of Model Analyzer 1.58,
which ran it against the CPU twin here.
"""

import json
from typing import Any

from limpq_deploy.export.ship.triton.config import schema_of_configs

SWEEP = "model_analyzer.yaml"

_TEXT = """\
# Sweep for Triton Model Analyzer: `model-analyzer profile -f {file} --model-repository REPOSITORY ...`
run_config_search_disable: true
triton_server_flags: {{http-address: 127.0.0.1, grpc-address: 127.0.0.1, metrics-address: 127.0.0.1}}
profile_models:
  {name}:
    parameters:
      batch_sizes: {batches}
      concurrency: [1, 2, 4, 8]
    model_config_parameters:
      instance_group:
        - kind: {kind}
          count: {counts}
"""

_DELAYS = """\
      dynamic_batching:
        max_queue_delay_microseconds: {delays}
"""


def make_sweep(config: str) -> str:
    """Text of model_analyzer.yaml for the model of a config.pbtxt that `check_config` took.

    Copies: one and twice as many as configured, beside the configuration itself, which Model Analyzer always tries.
    Requests of one image and of the largest batch. Where requests wait for others, half, once and twice that delay, for
    each number of copies; where they do not, batching stays off. The largest batch itself is not varied: the warm-up is
    made for it.
    """
    schema, text_format = schema_of_configs()
    found = text_format.Parse(config, schema.ModelConfig())
    group, delay = found.instance_group[0], found.dynamic_batching.max_queue_delay_microseconds
    copies = {1, group.count, 2 * group.count}
    text = _TEXT.format(
        file=SWEEP,
        name=json.dumps(found.name),
        batches=_listed(1, found.max_batch_size),
        kind=schema.ModelInstanceGroup.Kind.Name(group.kind),
        counts=_listed(*(copies if delay else copies - {group.count})),
    )
    return text + (_DELAYS.format(delays=_listed(delay // 2, delay, 2 * delay)) if delay else "")


def _listed(*values: Any) -> str:
    return json.dumps(sorted(set(values)))
