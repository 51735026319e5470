"""From logits to tokens: a pure function of (seed, choice, position, logits, tokens), whoever else is in the batch.

For each row, in this order:

 1. log probabilities are taken from the logits as they come from the model;
 2. tokens that the mask lacks, banned ones and the last of bad words become -infinity;
 3. `logit_bias` is added;
 4. `repetition_penalty` for tokens of prompt and output, then presence and frequency penalty for those of the output;
 5. greedy: the greatest is taken. Otherwise divided by temperature;
 6. `top_k` leaves the greatest, `top_p` the most probable of these, `min_p` those near the greatest;
 7. the token with the greatest sum of logit and Gumbel noise is taken (Gumbel 1954: it has the softmax's distribution).

vLLM has the same order, but for min_p, which comes before top_k and top_p there; Hugging Face has it last, as here.
TensorRT-LLM divides by temperature before the penalties and counts the prompt's tokens in all of them; here as in
OpenAI's documentation, where presence and frequency are those of the output.

The noise of a token is a hash of (seed, choice, position, token id), not the state of a generator: so any server that
has the tokens continues where another stopped, and small differences in logits rarely change what is drawn.
"""

from trtdisagg.engine.sampling.check import check_sampling
from trtdisagg.engine.sampling.history import History
from trtdisagg.engine.sampling.row import Row, Sampled
from trtdisagg.engine.sampling.sampler import Sampler, sample, token_logprobs

__all__ = ["History", "Row", "Sampled", "Sampler", "check_sampling", "sample", "token_logprobs"]
