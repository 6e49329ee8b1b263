"""Other formats: export of runs (CTranslate2, safetensors, Hugging Face), their model card, import of Marian models."""
