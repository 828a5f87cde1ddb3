"""The paper's published row for each suite, as printed (arXiv 2604.20796), and nothing that it does not print.

A number that is not here is absent. Where the names of a row's columns are not known to us, the columns are numbered
in printed order. Tables 2, 4, 13 and 14 are cited by number in our notes; the numbers of the other generation tables
(3 and 5 to 12) follow from the order in which the paper's ten generation rows were noted down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["PUBLISHED", "SPRINT", "TURBO", "Published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed row: table, overall score, columns in printed order, the scale (1, 5, 10 or 100), and remarks."""

    table: int
    overall: float | None
    scale: float
    columns: dict[str, float] = field(default_factory=dict)
    note: str = ""


def _numbered(*values: float) -> dict[str, float]:
    return {f"column {index}": value for index, value in enumerate(values, 1)}


def _answers(**scores: float) -> dict[str, Published]:
    return {name: Published(table=2, overall=score, scale=100) for name, score in scores.items()}


_UNNAMED = "columns in printed order; their names are not in our notes"

PUBLISHED: dict[str, Published] = {
    **_answers(
        mmstar=64.1, mmbench_en=81.5, mmbench_cn=81.2, mme_c=58.7, hallusionbench=50.2, realworldqa=66.7,
        simplevqa=44.0, mmmu=50.1, mmmu_pro=34.0, mathvista=68.1, mathvision=26.7, wemath=29.3, charxiv_dq=68.4,
        chartqa=80.1, ocrbench=75.7, docvqa=89.5, ai2d=82.0, infovqa=70.1, countbench=86.0, vl_rewardbench=47.8,
        vstar=61.8,
    ),
    "geneval": Published(
        table=3, overall=0.89, scale=1,
        columns={"single_object": 1.00, "two_object": 0.98, "counting": 0.73, "colors": 0.92, "position": 0.90,
                 "color_attr": 0.84},
    ),
    "dpg": Published(
        table=4, overall=87.76, scale=100, columns=_numbered(91.14, 93.55, 91.98, 92.17, 93.18),
        note=f'{_UNNAMED}, but for the last, "Other", which the paper\'s text quotes as 94.04',
    ),
    "oneig": Published(
        table=5, overall=0.505, scale=1,
        columns={"alignment": 0.882, "text": 0.661, "reasoning": 0.323, "style": 0.400, "diversity": 0.259},
    ),
    "unigenbench": Published(
        table=6, overall=79.63, scale=100, note=_UNNAMED,
        columns=_numbered(95.30, 93.67, 91.77, 85.65, 86.42, 63.99, 72.19, 85.82, 90.30, 31.23),
    ),
    "cvtg2k": Published(
        table=7, overall=0.765, scale=1, columns={**_numbered(0.788, 0.776, 0.763, 0.746), "NED": 0.911, "CLIP": 0.818},
        note="overall is the average word accuracy; numbered columns in printed order",
    ),
    "wise": Published(
        table=8, overall=0.68, scale=1, columns=_numbered(0.54, 0.77, 0.82, 0.79, 0.87, 0.60),
        note=f"{_UNNAMED}; with thinking .73 .79 .86 .81 .88 .74, overall .78",
    ),
    "imgedit": Published(
        table=9, overall=3.92, scale=5, columns=_numbered(3.76, 4.16, 2.40, 4.04, 3.82, 4.07, 4.60, 3.97, 4.42),
        note=_UNNAMED,
    ),
    "gedit_en": Published(table=10, overall=6.61, scale=10, columns={"SC": 6.68, "PQ": 7.52, "O": 6.61}),
    "gedit_cn": Published(table=10, overall=6.66, scale=10, columns={"SC": 6.63, "PQ": 7.67, "O": 6.66}),
    "mico": Published(
        table=11, overall=47.1, scale=100, columns={"Object": 51.0, "Person": 32.8, "HOI": 46.0, "De&Re": 54.4}
    ),
    "intergen": Published(
        table=12, overall=None, scale=10,
        columns={"story (Gemini)": 6.42, "explanation (Gemini)": 6.22, "event (Gemini)": 5.19, "story (Qwen)": 7.02,
                 "explanation (Qwen)": 6.35, "event (Qwen)": 5.94},
        note="one column per class and judge; the paper's scale is not in our notes",
    ),
}  # fmt: skip

# suite -> (score, tokens per second) without and with SPRINT; Table 13.
SPRINT: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "ai2d": ((82.0, 19.5), (80.9, 42.9)),
    "ocrbench": ((75.7, 21.2), (73.4, 36.0)),
    "mathvista": ((68.1, 55.0), (67.2, 75.0)),
    "chartqa": ((80.1, 28.7), (81.0, 62.3)),
    "docvqa": ((89.5, 8.0), (89.0, 27.6)),
    "mmmu": ((50.1, 49.4), (52.5, 52.2)),
    "mmstar": ((64.1, 31.7), (63.0, 49.2)),
    "geneval": ((89.0, 2.8), (87.8, 5.1)),
    "dpg": ((87.76, 2.7), (86.27, 7.8)),
    "average": ((76.3, 24.3), (75.7, 39.8)),
}

# what -> (50 steps, 8 steps of the distilled decoder); Table 14. Seconds for one 1024 x 1024 picture.
TURBO: dict[str, tuple[float, float]] = {
    "seconds per image": (32.95, 2.90),
    "geneval": (0.89, 0.87),
    "dpg": (87.76, 87.24),
    "unigenbench": (79.63, 79.76),
    "oneig": (0.505, 0.500),
    "wise": (0.68, 0.68),
}
