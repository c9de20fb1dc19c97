"""What a target makes of an ONNX file: rules with ids and severities, and the runtime's own word."""
