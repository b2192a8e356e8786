"""Explanations of whole data sets on the disk: begun once, done by any number of processes, resumed after a crash.

    from interp_plugins.store import ExplanationStore, explain_dataset

    explain_dataset(model, dataset, "run", methods=("ig", "gradcam"))
    ExplanationStore("run").summary(by="label")

A run directory holds `manifest.json`, arrays in Zarr's format 3 (one shard per work unit) and one Parquet part per
unit, which is the record that the unit is done. Needs zarr and pyarrow: pip install 'interp-plugins[store]'.
"""

from interp_plugins.store.dataset import explain_dataset
from interp_plugins.store.errors import DamagedError, DiskFullError, NotWritableError, RunDiffersError, StoreError
from interp_plugins.store.reader import ExplanationStore

__all__ = [
    "DamagedError",
    "DiskFullError",
    "ExplanationStore",
    "NotWritableError",
    "RunDiffersError",
    "StoreError",
    "explain_dataset",
]
