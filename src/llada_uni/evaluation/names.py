"""Names and titles of the suites that read a user's data, without importing what they need (for the command line)."""

from __future__ import annotations

__all__ = ["SUITE_TITLES"]

SUITE_TITLES: dict[str, str] = {
    "geneval": "GenEval",
    "dpg": "DPG-Bench",
    "oneig": "OneIG-Bench",
    "unigenbench": "UniGenBench",
    "cvtg2k": "CVTG-2K",
    "wise": "WISE",
    "imgedit": "ImgEdit-Bench, basic",
    "gedit_en": "GEdit-Bench, English",
    "gedit_cn": "GEdit-Bench, Chinese",
    "mico": "MICo-Bench",
    "intergen": "InterGen",
    "chartqa": "ChartQA",
    "docvqa": "DocVQA",
    "infovqa": "InfoVQA",
    "ocrbench": "OCRBench",
    "countbench": "CountBench",
    "mmstar": "MMStar",
    "mmbench_en": "MMBench, English",
    "mmbench_cn": "MMBench, Chinese",
    "realworldqa": "RealWorldQA",
    "ai2d": "AI2D",
    "vstar": "V*",
    "mmmu": "MMMU val",
    "mmmu_pro": "MMMU-Pro standard",
    "vl_rewardbench": "VL-RewardBench",
    "mme_c": "MME-C",
    "hallusionbench": "HallusionBench",
    "simplevqa": "SimpleVQA",
    "charxiv_dq": "CharXiv, descriptive questions",
    "mathvista": "MathVista mini",
    "mathvision": "MathVision mini",
    "wemath": "WeMath",
}
