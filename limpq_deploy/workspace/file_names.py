"""Files of a build that more than one stage knows, relative to its folder."""

CONFIG = "config.json"
GIVEN, GIVEN_EXPORTED = "given.json", "given-exported.json"
FLOAT_WEIGHTS, FLOAT_RECORD = "float.safetensors", "float.json"
JOINT, INDICATORS, PLACEMENT = "joint.safetensors", "indicators.json", "placement.json"
POLICY, COMPARISON = "policy.json", "comparison.json"
FINETUNED, FINETUNED_RECORD = "finetuned.safetensors", "finetuned.json"
UNIFORM, UNIFORM_RECORD = "uniform.safetensors", "uniform.json"
INT8, INT8_RECORD = "int8.safetensors", "int8.json"
FP8_WEIGHTS, FP8_RECORD = "fp8.safetensors", "fp8.json"

MODEL, LINT, ENGINE = "model.qdq.onnx", "lint.json", "engine.json"
BASELINES = "baselines"
FLOAT_MODEL, UNIFORM_MODEL, UNIFORM8_MODEL, FP8_MODEL, UNIFORM_STORED = (
    f"{BASELINES}/float.onnx",
    f"{BASELINES}/uniform.qdq.onnx",
    f"{BASELINES}/uniform8.qdq.onnx",
    f"{BASELINES}/fp8.qdq.onnx",
    f"{BASELINES}/uniform.stored.onnx",
)
CANDIDATES, CANDIDATE_BUNDLES = "candidates.json", "candidates"
LATENCY = "latency.json"
AUDIT, FLOAT_ENGINE = "audit.json", "float-engine.json"
EXPORT, STORED, PIXELS = "export.json", "model.stored.onnx", "model.uint8.onnx"
TABLE, TEMPLATE, ROUNDS, STUDY = (
    "latency-table.json",
    "latency-template.onnx",
    "latency-rounds.json",
    "latency-study.json",
)
VERDICT, REPORT, BUNDLE = "verdict.json", "report.html", "bundle"

PARITY, ACCURACY, ANSWERS = "parity.json", "accuracy.json", "answers.json"
WHAT_IF = "what-if.json"
TRAINING_LOGS = "training"

HANDOVER, IMAGES = "handover.json", "images.npy"
HANDED_PARITY = "handed-parity.json"
PRICES = "cost-table.json"
"""What travels to the machine with the GPU beside the files of the build."""
