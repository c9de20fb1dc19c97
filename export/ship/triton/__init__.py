"""Configuration of a model for NVIDIA Triton, its CPU twin, a sweep for Model Analyzer."""
