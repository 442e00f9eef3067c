"""The parts of gpu_proof.py: each module answers one question that only a GPU can answer."""
