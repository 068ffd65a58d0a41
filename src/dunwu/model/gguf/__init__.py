"""GGUF, llama.cpp's file of a model with its tokenizer: `export_gguf` writes one of a model's folder, `import_gguf` makes a
folder of one."""

from dunwu.model.gguf.exporting import Exported, export_gguf
from dunwu.model.gguf.importing import import_gguf
from dunwu.model.gguf.quantise import WRITTEN, written_type

__all__ = ["WRITTEN", "Exported", "export_gguf", "import_gguf", "written_type"]
