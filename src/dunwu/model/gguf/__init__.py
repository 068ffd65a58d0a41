"""GGUF, llama.cpp's file of a model with its tokenizer: `export_gguf` writes one of a model's folder, `import_gguf` makes a
folder of one."""

from dunwu.model.gguf.exporting import Exported, export_gguf
from dunwu.model.gguf.importing import import_gguf
from dunwu.model.gguf.kquants import K_QUANTS
from dunwu.model.gguf.quantise import WRITTEN, require_written

__all__ = ["K_QUANTS", "WRITTEN", "Exported", "export_gguf", "import_gguf", "require_written"]
