"""Export of runs: CTranslate2, safetensors, model card."""
