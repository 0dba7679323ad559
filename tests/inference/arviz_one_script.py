"""Run by `test_arviz_one.py` under a Python of its own, with ArviZ 1.x and without torch."""

import sys
from pathlib import Path

import numpy as np


def main(old: Path, new: Path) -> None:
    """Read what ArviZ 0.2x wrote, write the same groups, summarise both."""
    from pyromodels.inference.posterior import arviz_io

    assert "torch" not in sys.modules
    import arviz
    import xarray

    assert int(arviz.__version__.partition(".")[0]) >= 1, arviz.__version__
    read = arviz_io.load(old)
    assert isinstance(read, xarray.DataTree), type(read)
    groups = {
        name: {
            str(key): (tuple(map(str, value.dims)), value.values)
            for key, value in node.data_vars.items()
        }
        for name, node in read.children.items()
    }
    coords = {str(dim): list(read["posterior"][dim].values) for dim in ("day",)}
    data = arviz_io.inference_data(groups, coords=coords, attrs={"inference_library": "test"})
    assert isinstance(data, xarray.DataTree)
    arviz_io.save(data, new)
    again = arviz_io.load(new)
    for name, group in groups.items():
        for key, (dims, values) in group.items():
            assert again[name][key].dims == dims
            np.testing.assert_array_equal(again[name][key].values, values)
    table = arviz.summary(again, var_names=["x"])
    assert len(table) == 3, table
    print(arviz.__version__, xarray.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
