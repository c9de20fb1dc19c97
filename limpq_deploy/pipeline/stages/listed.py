"""All stages of a build in their order; nothing has to exist to name them."""

from collections.abc import Iterator

from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.audit import AUDIT_OF_ENGINE
from limpq_deploy.pipeline.stages.bundle import SHIPPED
from limpq_deploy.pipeline.stages.candidates import CANDIDATES_OF_BUILD
from limpq_deploy.pipeline.stages.choose import GIVEN_POLICY, SEARCHED_POLICY
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.deploy import EXPORTED_MODELS
from limpq_deploy.pipeline.stages.engine import COMPILED_ENGINE, ENGINE_RECORD
from limpq_deploy.pipeline.stages.given import GIVEN_MODEL
from limpq_deploy.pipeline.stages.learn import (
    FINETUNED_FP8,
    FINETUNED_INT8,
    FINETUNED_MODEL,
    FINETUNED_UNIFORM,
    FLOAT_MODEL,
    JOINTLY_TRAINED,
)
from limpq_deploy.pipeline.stages.measure import ACCURACY_OF_FILES, LATENCY_OF_FILES, PARITY_OF_CODES
from limpq_deploy.pipeline.stages.page import REPORT_PAGE
from limpq_deploy.pipeline.stages.ptq import (
    CALIBRATED_FP8,
    CALIBRATED_INT8,
    CALIBRATED_MODEL,
    CALIBRATED_UNIFORM,
    RANGES_ALONE,
)
from limpq_deploy.pipeline.stages.rounds import PROFILE, STUDY_OF_LATENCY
from limpq_deploy.pipeline.stages.untuned import UNTUNED_MODEL, UNTUNED_UNIFORM
from limpq_deploy.pipeline.stages.verdict import VERDICT_OF_BUILD
from limpq_deploy.pipeline.stages.what_if import WHAT_IF_STAGE

STAGES: tuple[Stage, ...] = (
    *(GIVEN_MODEL, FLOAT_MODEL),
    *(JOINTLY_TRAINED, RANGES_ALONE),
    *(PROFILE, SEARCHED_POLICY, GIVEN_POLICY),
    *(FINETUNED_MODEL, UNTUNED_MODEL, CALIBRATED_MODEL),
    *(FINETUNED_UNIFORM, UNTUNED_UNIFORM, CALIBRATED_UNIFORM),
    *(FINETUNED_INT8, CALIBRATED_INT8, FINETUNED_FP8, CALIBRATED_FP8),
    *(EXPORTED_MODELS, ENGINE_RECORD, COMPILED_ENGINE, PARITY_OF_CODES, ACCURACY_OF_FILES, LATENCY_OF_FILES),
    *(CANDIDATES_OF_BUILD, AUDIT_OF_ENGINE, STUDY_OF_LATENCY, VERDICT_OF_BUILD, WHAT_IF_STAGE, REPORT_PAGE, SHIPPED),
)


def stages_of(subject: Subject) -> Iterator[Stage]:
    """Those that the settings of a build ask for; a condition that reads files is left to who has them."""
    for stage in STAGES:
        if all(one.holds(subject, subject.config.out) for one in stage.when if not one.reads):
            yield stage
