"""Two folders as Hugging Face writes them, trained apart, merged into one like them.

python examples/merge_hf_checkpoints.py
"""

import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils.logging import disable_progress_bar

import dimat

disable_progress_bar()
torch.manual_seed(0)
ids = torch.randint(2, 40, (1200, 8))
labels = ((ids < 10).sum(1) > 1).long()  # whether a text has two rare words
test = torch.arange(len(ids)) % 6 == 0


def network() -> BertForSequenceClassification:
    """A tiny BERT with an init of its own."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=40, intermediate_size=64, **shape))


def train(own: slice, folder: Path) -> None:
    """Save a network that has seen a part of the texts, in shards of 20 kB."""
    x, y = ids[~test][own], labels[~test][own]
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(15):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            model(x[batch], labels=y[batch]).loss.backward()
            optimizer.step()
    model.save_pretrained(folder, max_shard_size="20KB")


def accuracy(folder: Path) -> str:
    """Of the test texts, in %."""
    model = BertForSequenceClassification.from_pretrained(folder)
    right = model(ids[test]).logits.argmax(1) == labels[test]
    return f"{100 * right.float().mean().item():.1f} %"


with tempfile.TemporaryDirectory() as root:
    parents = [Path(root, name) for name in ("even", "odd")]
    for k, parent in enumerate(parents):
        train(slice(k, None, 2), parent)
    model = network()
    inputs = [{"input_ids": own} for own in ids[~test].split(100)]  # without labels
    for name, method, combine in [
        ("plain average", "identity", "average"),
        ("matched, regression", "activations", "regression"),
    ]:
        merged = dimat.merge(model, parents, inputs, method=method, combine=combine)
        model.load_state_dict(merged.state)
        model.save_pretrained(Path(root, name), max_shard_size="20KB")
        files = len(list(Path(root, name).glob("*.safetensors")))
        print(f"{name}: {accuracy(Path(root, name))}, in {files} files")
    print(f"parents: {', '.join(map(accuracy, parents))}")
