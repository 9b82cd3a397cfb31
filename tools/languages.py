"""A study of texts that are not ASCII: 200 documents in Chinese or Russian, written here, and five features of each.

    python tools/languages.py zh OUT     writes OUT/text and OUT/study.yaml, runs it, prints the rows of a table

A document tells of one day in sentences of a few patterns; who does what where is drawn by a seed. On a byte-level
tokenizer of English most of its characters are two or three tokens.
"""

import sys
from pathlib import Path

import polars as pl
import yaml

import saelab
from saelab.core.bytetext import has_parts
from saelab.core.seeds import numpy_generator
from saelab.store.folders import InterpFolder

# language -> kind of word -> the words
WORDS = {
    "zh": {
        "who": "老师 学生 农民 医生 画家 司机 邻居 姐姐 爷爷 渔夫",
        "where": "河边 山上 学校 市场 花园 图书馆 车站 森林 海滩 厨房",
        "what": "苹果 旧书 雨伞 小猫 信件 面包 吉他 照片 鲜花 灯笼",
        "did": "看见了 买到了 找到了 丢失了 画下了 收到了 修好了 带来了",
        "when": "早晨 中午 傍晚 夜里 春天 秋天 昨天 后来",
        "how": "天气很冷 阳光明媚 下着大雨 刮着微风 人们很安静 鸟儿在唱歌",
    },
    "ru": {
        "who": "учитель ученик крестьянин врач художник водитель сосед бабушка рыбак повар",
        "where": "у_реки на_горе в_школе на_рынке в_саду в_библиотеке на_вокзале в_лесу на_кухне",
        "what": "яблоко старую_книгу зонт котёнка письмо хлеб гитару фотографию цветок фонарь",
        "did": "видит покупает находит теряет рисует получает чинит приносит",
        "when": "утром днём вечером ночью весной осенью вчера потом",
        "how": "было_холодно светило_солнце шёл_сильный_дождь дул_лёгкий_ветер все_молчали пели_птицы",
    },
}
PATTERNS = {
    "zh": (
        "{when}，{who}在{where}{did}{what}。",
        "{who}说：“{how}。”",
        "{where}有{what}，{how}。",
        "{when}{how}，{who}{did}{what}。",
    ),
    "ru": (
        "{when} {who} {where} {did} {what}.",
        "{who} сказал: «{how}».",
        "{where} лежало то, что {who} {did}: {what}.",
        "{when} {how}, и {who} {did} {what}.",
    ),
}
SENTENCES = 24


def documents(language: str, count: int = 200, seed: int = 0) -> list[str]:
    """Texts of `SENTENCES` sentences each."""
    generator = numpy_generator(seed, "languages", language)
    words = {kind: [w.replace("_", " ") for w in some.split()] for kind, some in WORDS[language].items()}
    patterns = PATTERNS[language]
    made = []
    for _ in range(count):
        # a day has few people and things, so that a document is about something
        day = {kind: generator.choice(some, 3, replace=False).tolist() for kind, some in words.items()}
        drawn = [{kind: str(generator.choice(some)) for kind, some in day.items()} for _ in range(SENTENCES)]
        lines = [str(generator.choice(patterns)).format(**d) for d in drawn]
        made.append(("" if language == "zh" else " ").join(line[0].upper() + line[1:] for line in lines))
    return made


def study(language: str, folder: Path, lm: str = "smollm2-135m", **grid: object) -> Path:
    """The study file, its texts beside it, one file a document."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(documents(language)):
        (folder / "text" / f"{i:03}.txt").write_text(text, encoding="utf-8")
    own = {"sites": ["resid_post.15"], "architectures": ["topk"], "levels": [16], "d_sae": 1024, "steer": False} | grid
    data = {
        "name": language,
        "models": [{"lm": lm, "dtype": "float32", "grids": [own]}],
        "text": {
            "corpus": {"source": f"path:{folder / 'text'}"},
            "documents": "file",
            "context": 64,
            "train_contexts": 320,
            "held_out_contexts": 16,
        },
        "training": {"steps": 400, "batch": 512, "precision": "float32"},
        "interp": {"fidelity_contexts": 8, "window_rows": 18000, "n_scored": 96, "n_embedded": 0},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(data, allow_unicode=True))
    return folder / "study.yaml"


def shown(interp: InterpFolder, count: int = 5) -> pl.DataFrame:
    """The features that are detected best: number, description, AUROC, its strongest context."""
    features = interp.features.read().filter(pl.col("state") == "ok").sort("auroc", "feature", descending=[True, False])
    # features of a comma are detected as well as any: those that name two letters are shown
    worded = features.filter(pl.col("description").str.contains(r"[\p{Han}\p{Cyrillic}]{2}"))
    contexts = interp.contexts.read().filter(pl.col("rank") == 0)
    texts = {r["feature"]: "".join(r["tokens"]) for r in contexts.iter_rows(named=True)}
    rows = worded.head(count).select("feature", "description", "auroc").to_dicts()
    return pl.DataFrame([row | {"context": texts[row["feature"]]} for row in rows])


if __name__ == "__main__":
    language, out = sys.argv[1], Path(sys.argv[2])
    saelab.run_study(study(language, out), out / "run")
    place = InterpFolder(next((out / "run" / "interp").iterdir()))
    table = place.features.read()
    terms = [t for row in table["terms"].to_list() for t in row]
    print(len(terms), "terms,", sum(has_parts(t["raw"]) for t in terms), "of them parts of characters;",
          sum("\ufffd" in (d or "") for d in table["description"]), "descriptions with U+FFFD")  # fmt: skip
    for row in shown(place).iter_rows(named=True):
        context = row["context"].replace("\n", " ")
        print(f"| {row['feature']} | {row['description']} | {row['auroc']:.2f} | {context} |")
