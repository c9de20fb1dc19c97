"""Files of a build that more than one stage knows, relative to its folder."""

CONFIG = "config.json"
FLOAT, FLOAT_RECORD = "float.safetensors", "float.json"
JOINT, INDICATORS, PLACEMENT = "joint.safetensors", "indicators.json", "placement.json"
POLICY, COMPARISON = "policy.json", "comparison.json"
FINETUNED, FINETUNED_RECORD = "finetuned.safetensors", "finetuned.json"
UNIFORM, UNIFORM_RECORD = "uniform.safetensors", "uniform.json"
