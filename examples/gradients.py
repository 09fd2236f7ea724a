"""The lecture's exercise 1, solved: 26 gradients by hand beside autograd's, on a minibatch of names."""

import inspect

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import backhand
from backhand.language.model import draw_parameters
from backhand.passes import mlp_chunked

config = backhand.TrainConfig(n_hidden=64)
words = backhand.load_words("names")
vocabulary = backhand.Vocabulary.of(words)
contexts = backhand.Contexts(
    backhand.split_words(words, config.split_seed).train, vocabulary, config.block_size
)
generator = torch.Generator().manual_seed(config.seed)
parameters = draw_parameters(config, len(vocabulary), generator)
Xb, Yb = contexts[torch.randint(0, len(contexts), (config.batch_size,), generator=generator)]

# autograd's gradients: of the parameters, and of everything between them and the loss
for p in parameters.values():
    p.requires_grad_()
tensors = mlp_chunked.forward(Xb, Yb, **parameters)
inner = {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.requires_grad}
expected = dict(zip(inner, torch.autograd.grad(tensors["loss"], list(inner.values())), strict=True))

# the gradients written by hand: the signature of `backward` is the list of tensors that it saves
with torch.no_grad():
    saved = {name: tensors[name] for name in inspect.signature(mlp_chunked.backward).parameters}
    hand = mlp_chunked.backward(**saved)

table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
for heading, justify in (
    ("gradient", "left"),
    ("shape", "left"),
    ("equal", "left"),
    ("max difference", "right"),
):
    table.add_column(heading, justify=justify)
right = 0
for name in [name for name in hand if name[1:] in expected]:
    ours, autograds = hand[name], expected[name[1:]]
    same_shape = (
        ours.shape == autograds.shape
    )  # compared first: allclose would broadcast (64,) against (1, 64)
    exact = same_shape and torch.equal(ours, autograds)
    close = same_shape and torch.allclose(ours, autograds, atol=1e-7)
    difference = (ours - autograds).abs().max().item() if same_shape else float("nan")
    right += close
    verdict = "exactly" if exact else "to rounding" if close else "NO"
    table.add_row(name, str(tuple(ours.shape)), verdict, f"{difference:.1e}")

console = Console()
console.print("The lecture's model: gradients written by hand, beside autograd's\n")
console.print(table)
console.print(f"\n{right} of {table.row_count} hand-written gradients are autograd's.\n")
raise SystemExit(right != table.row_count)
