"""What single loss terms teach: the gradient of each on the layers that all heads share, beside that of another."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def joined_gradient(term: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Compute the gradient of a term on parameters, flattened and joined; the graph of the term is kept.

    It is 0 for a term that is a constant.
    """
    if not term.requires_grad:
        return torch.cat([torch.zeros_like(parameter).flatten() for parameter in parameters])
    parts = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def compare_gradients(
    terms: Mapping[str, Tensor],
    reference: Tensor,
    parameters: Sequence[Tensor],
    reduce: Callable[[Tensor], Tensor] = torch.Tensor.detach,
) -> dict[str, Tensor]:
    """Compare the gradients of loss terms with that of a reference.

    Args:
        terms: Weighted terms by name, scalars with a graph.
        reference: The term, or sum of terms, to compare with.
        parameters: On which the gradients are taken.
        reduce: What to do with each joined gradient first, such as averaging it over processes.

    Returns:
        By "norm_<term>" the norm of the gradient of each term, and by "cosine_<term>" its cosine similarity with that
        of the reference, which is 0 where one of them is: scalars on the device of the parameters.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    against = reduce(joined_gradient(reference, trained))
    found = {}
    for name, term in terms.items():
        gradient = against if term is reference else reduce(joined_gradient(term, trained))
        found[f"norm_{name}"] = gradient.norm()
        found[f"cosine_{name}"] = F.cosine_similarity(gradient, against, dim=0)
    return found
