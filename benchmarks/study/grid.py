"""The things compared: students, paths from the teacher to them, and which combinations are run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SEEDS = (0, 1, 2)

#: Weights added to the LM loss, by name. Written in full, so that a preset may follow from the
#: study without changing it.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "lm": {},
    "logits": {"weights": {"logits": 1.0}},
    "logits_reverse": {"weights": {"logits": 1.0}, "divergence": "reverse_kl"},
    "logits_js": {"weights": {"logits": 1.0}, "divergence": "jensen_shannon"},
    "minilm": {"weights": {"encoder_relations": 1.0, "decoder_relations": 1.0}},
    "encoder": {"weights": {"encoder_relations": 1.0}},
    "decoder": {"weights": {"decoder_relations": 1.0}},
    "cross": {"weights": {"cross_relations": 1.0}},
    "self_cross": {
        "weights": {"encoder_relations": 1.0, "decoder_relations": 1.0, "cross_relations": 1.0}
    },
    "self_cross_logits": {
        "weights": {
            "logits": 1.0,
            "encoder_relations": 1.0,
            "decoder_relations": 1.0,
            "cross_relations": 1.0,
        }
    },
    "decoder_cross_logits": {
        "weights": {"logits": 1.0, "decoder_relations": 1.0, "cross_relations": 1.0}
    },
    "hidden": {"weights": {"hidden": 1.0}},
    "logits_alone": {"weights": {"lm": 0.0, "logits": 1.0}},
    "logits_fourfold": {"weights": {"logits": 4.0}},
    "decoder_cross_logits_fourfold": {
        "weights": {"logits": 4.0, "decoder_relations": 1.0, "cross_relations": 1.0}
    },
    "self_cross_tenth": {
        "weights": {"encoder_relations": 0.1, "decoder_relations": 0.1, "cross_relations": 0.1}
    },
    "self_cross_tenth_logits": {
        "weights": {
            "logits": 1.0,
            "encoder_relations": 0.1,
            "decoder_relations": 0.1,
            "cross_relations": 0.1,
        }
    },
}

#: Changes to the teacher's shape; dimensions that are not named are the teacher's.
STUDENTS: dict[str, dict[str, Any]] = {
    "half": {"encoder_layers": 2, "decoder_layers": 2},
    "narrow": {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "d_model": 128,
        "d_ff": 256,
        "num_heads": 2,
    },
    "gap": {"scale": 0.4},
}

#: Sources of the teacher's side: settings of the cache, and the kind of target that training reads.
CACHES: dict[str, dict[str, Any]] = {
    "states": {"cache": {"kinds": ["states"]}, "targets": "states"},
    "int8": {"cache": {"kinds": ["states"], "states": {"dtype": "int8"}}, "targets": "states"},
    "sampled": {"cache": {"kinds": ["sampled"]}, "targets": "sampled"},
    "topk": {"cache": {"kinds": ["topk"]}, "targets": "topk"},
}


@dataclass(frozen=True)
class Path:
    """One way from the teacher to a student."""

    student: str
    objective: str
    init: str = "layers"
    cache: str = "states"
    assistants: int = 0

    @property
    def stage(self) -> Literal["distill", "distill_interpolated"]:
        """The stage that makes it, which is also the directory of its students below the run."""
        return "distill_interpolated" if self.assistants else "distill"

    @property
    def name(self) -> str:
        parts = [self.student, self.objective, self.init]
        parts += [self.cache] if self.cache != "states" else []
        return "-".join([*parts, *([f"{self.assistants}_assistants"] if self.assistants else [])])


@dataclass(frozen=True)
class Unit:
    path: Path
    seed: int

    @property
    def name(self) -> str:
        return f"{self.path.name}-seed_{self.seed}"


@dataclass(frozen=True)
class Group:
    """Paths that are compared in one table of docs/study.md."""

    name: str
    title: str
    paths: tuple[Path, ...]
    #: The path that the others are tested against.
    reference: Path
    note: str = ""
    seeds: tuple[int, ...] = field(default=SEEDS)

    def units(self) -> list[Unit]:
        """Return all units, seed by seed.

        So a study that is cut short compares all paths on the seeds it has.
        """
        return [Unit(path, seed) for seed in self.seeds for path in self.paths]


#: The objective that the first two tables favour: `miniend`. So it is tried with every student,
#: through assistants and from int8 states.
BEST = "decoder_cross_logits_fourfold"
_FEW = ("lm", "logits", "minilm", "self_cross")
_MIXED = ("self_cross_logits", "decoder_cross_logits")
_ALONE = ("encoder", "decoder", "cross", "hidden")
_DIVERGENCES = ("logits_reverse", "logits_js")
_WEIGHTS = ("logits_alone", "logits_fourfold", "self_cross_tenth", "self_cross_tenth_logits")


def _paths(student: str, objectives: tuple[str, ...], init: str) -> tuple[Path, ...]:
    return tuple(Path(student, objective, init) for objective in objectives)


def groups() -> list[Group]:
    return [
        Group(
            "half_layers",
            "Half the depth, first weights from the teacher's layers",
            _paths("half", (*_FEW, *_MIXED, *_ALONE, *_DIVERGENCES), "layers"),
            Path("half", "lm"),
        ),
        Group(
            "weights",
            "Other weights",
            _paths("half", ("lm", "logits", "self_cross", *_MIXED, *_WEIGHTS, BEST), "layers"),
            Path("half", "logits"),
        ),
        Group(
            "half_random",
            "Half the depth, random first weights",
            _paths(
                "half",
                (*_FEW, "self_cross_logits", "logits_fourfold", BEST, *_ALONE, *_DIVERGENCES),
                "random",
            ),
            Path("half", "lm", "random"),
        ),
        Group(
            "narrow",
            "Half the depth and half the width",
            _paths("narrow", ("lm", "logits", "self_cross", BEST), "layers"),
            Path("narrow", "lm"),
        ),
        Group(
            "assistants",
            "Through assistants, at equal total steps",
            (
                Path("narrow", BEST),
                *(Path("narrow", BEST, assistants=number) for number in (1, 2)),
            ),
            Path("narrow", BEST),
        ),
        Group(
            "caches",
            "What the cache holds",
            (
                Path("half", BEST),
                Path("half", BEST, cache="int8"),
                Path("half", "logits"),
                # A distribution alone has no relations.
                *(Path("half", "logits", cache=cache) for cache in ("sampled", "topk")),
            ),
            Path("half", "logits"),
        ),
        Group(
            "gap",
            "2.5 : 1 in non-embedding parameters",
            _paths("gap", ("lm", "logits", BEST), "layers"),
            Path("gap", "lm"),
        ),
    ]


def quick_groups() -> list[Group]:
    """Return two paths with one seed, to see that it works, not which one is better."""
    paths = (Path("half", "lm", "random"), Path("half", "decoder_cross_logits"))
    return [Group("quick", "Two paths, one seed", paths, paths[0], seeds=(0,))]


def short(path: str) -> str:
    """Return a path's name without the student that a table shares, and without defaults."""
    words = (
        path.partition("-")[2]
        .removesuffix("-layers")
        .replace("-layers-", ", ")
        .replace("-", ", ")
        .replace("_", " ")
    )
    return words.replace("1 assistants", "1 assistant")
