"""The paper's own placement, for comparison with it."""

from limpq_deploy.export.records.targets.base import TargetSpec

REFERENCE = TargetSpec(
    name="reference",
    description="The paper's own placement: one quantizer on each layer's input and weight, nothing else; not exported",
    runs_on=None,
    act_container="uint8",
    signed_zero_point=128,
    offset_zero_point=16,
    unsigned_acts=True,
    clip="none",
    add_inputs="none",
    pools=False,
    carrier_bits=8,
    shared_inputs=False,
    single_q=False,
    bias="float32",
    native_pairs=((32, 32),),
)
