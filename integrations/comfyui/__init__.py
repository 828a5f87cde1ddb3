"""Nodes for ComfyUI that make, edit, decode and describe pictures with LLaDA2.0-Uni.

Put this folder into ComfyUI's ``custom_nodes``. Loading it imports neither torch nor ``llada_uni``.
"""

from .draw_nodes import LladaUniEdit, LladaUniGenerate, LladaUniInpaint
from .load_node import LladaUniLoadModel
from .look_nodes import LladaUniDecode, LladaUniEncode, LladaUniPreviewCodes, LladaUniUnderstand

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

NODE_CLASS_MAPPINGS = {
    "LladaUniLoadModel": LladaUniLoadModel,
    "LladaUniGenerate": LladaUniGenerate,
    "LladaUniEdit": LladaUniEdit,
    "LladaUniInpaint": LladaUniInpaint,
    "LladaUniEncode": LladaUniEncode,
    "LladaUniDecode": LladaUniDecode,
    "LladaUniPreviewCodes": LladaUniPreviewCodes,
    "LladaUniUnderstand": LladaUniUnderstand,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LladaUniLoadModel": "Load LLaDA-Uni Model",
    "LladaUniGenerate": "LLaDA-Uni Generate Codes",
    "LladaUniEdit": "LLaDA-Uni Edit",
    "LladaUniInpaint": "LLaDA-Uni Inpaint",
    "LladaUniEncode": "LLaDA-Uni Encode Image",
    "LladaUniDecode": "LLaDA-Uni Decode Codes",
    "LladaUniPreviewCodes": "LLaDA-Uni Preview Codes",
    "LladaUniUnderstand": "LLaDA-Uni Ask about Image",
}
