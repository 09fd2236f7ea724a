"""The lecture's exercise 1, solved, on its first minibatch: 26 gradients by hand beside autograd's."""

import torch

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

report = backhand.check(mlp_chunked, inputs={"Xb": Xb, "Yb": Yb, **parameters})
print(report)
report.raise_if_wrong()
