"""Reviews of films, hotels and phones, each at an agent of its own, and one BERT of all of them.

python examples/text_classification.py
"""

import csv
import random
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, PreTrainedTokenizerFast

import dimat

SAID = {  # what people like, and what they do not
    "film": ("gripping moving funny clever", "dull endless silly stale"),
    "hotel": ("clean quiet friendly sunny", "noisy dirty damp cramped"),
    "phone": ("fast light sturdy bright", "slow heavy flimsy dim"),
}
OTHERS = ["the", "a", "this", "is", "was", "and", "very", "so", "we", "it"]
draw = random.Random(0)


def review(topic: str) -> tuple[str, str]:
    """A text of ten words, and whether it was liked."""
    liked = draw.random() < 0.5
    words = draw.choices(SAID[topic][not liked].split(), k=2) + draw.choices(OTHERS, k=7) + [topic]
    draw.shuffle(words)
    return " ".join(words), "yes" if liked else "no"


with tempfile.TemporaryDirectory() as folder:
    for k, topic in enumerate(SAID):
        with Path(folder, f"texts-{k}.csv").open("w", newline="") as file:
            rows = [review(topic) for _ in range(300)]
            csv.writer(file).writerows([("text", "liked"), *rows])
    known = ["[PAD]", "[UNK]", *OTHERS, *SAID]
    known += [word for pair in SAID.values() for words in pair for word in words.split()]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, "[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="[PAD]").save_pretrained(folder)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(intermediate_size=64, **tiny).save_pretrained(folder)
    result = dimat.run(
        data={
            "source": f"csv:{folder}/texts-{{agent}}.csv",
            "target": "liked",
            "classes": ["no", "yes"],
            "text": "text",
            "tokenizer": folder,
            "max_length": 12,
        },
        model=f"hf:{folder}",
        agents=3,
        topology="full",
        init="shared",
        rounds=5,
        pretrain_epochs=5,
        threads=1,
        controls=["wa", "local"],
        out=f"{folder}/run",
        progress=False,
    )
for own in (result.main, *result.controls):
    after = own.summary["merged_accuracy_mean"] or own.summary["trained_accuracy_mean"]
    print(f"{own.method}: {100 * after:.1f} % of the reviews of all three")
