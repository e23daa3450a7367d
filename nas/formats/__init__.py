"""Winners in the forms that other programs load, each compared there with the model it was made from."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "deliver": ["Delivered", "deliver_formats", "parse_formats"],
        "formats": ["FORMATS"],
        "llama_quantize": ["QUANTIZE_NOTE", "build_quantize_command"],
        "parity": ["check"],
        "report": ["write_parity"],
        "source": ["Source", "make_parent_source", "read_source"],
    },
)
