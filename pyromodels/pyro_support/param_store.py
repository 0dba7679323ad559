"""Where stock Pyro finds the parameters of plain modules: its global param store."""

import itertools
from weakref import WeakKeyDictionary

import pyro
from torch import nn

# Names must outlive neither their module, nor be copied with it (as an attribute would be), nor be
# used again (as `id` would be): a name met twice makes Pyro train the tensor it met first.
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = itertools.count(1)


def register(module: nn.Module) -> None:
    """Tell Pyro of a module's parameters, under a name of this very instance.

    The first line of every model's and guide's `forward`: `pyro.infer.SVI` trains what is in the
    param store, and a plain module that is not there it leaves as it is without a word. A parameter
    that model and guide share has one name, whichever of them runs first.

    Under Pyro's setting `module_local_params` nothing is registered; parameters are then those of
    the torch module `elbo(model, guide)`, for torch's optimisers.

    Raises:
        RuntimeError: where the store holds another tensor under the parameter's name, one that was
            loaded, or its copy of a parameter that is not contiguous: Pyro would train that one.

    Example:
        >>> pyro.clear_param_store()
        >>> register(nn.Linear(2, 1))
        >>> sorted(name.partition("$$$")[2] for name in pyro.get_param_store())
        ['bias', 'weight']
        >>> pyro.clear_param_store()
    """
    if pyro.settings.get("module_local_params"):
        return
    if module not in _names:
        _names[module] = f"{type(module).__name__}_{next(_numbers)}"
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            store = pyro.get_param_store()
            name = store.param_name(parameter) or f"{_names[module]}$$${path}"
            pyro.param(name, parameter)
            if store.param_name(parameter) != name:
                raise RuntimeError(
                    f"the param store holds another tensor as {name!r}; call "
                    "pyro.clear_param_store(), load weights by load_state_dict, and make "
                    "parameters contiguous, of others Pyro takes a copy"
                )
