"""The nine faults, and the expected outcome of each."""

from .batches import corrupt_batch, schema_change
from .models import crashing_model, drifted_inputs, slow_model, worse_model
from .scenario import Fault
from .state import killed_process, lost_cache_object, lost_registry

FAULTS = (
    Fault("corrupt-batch", "refused at the gate, nothing built", corrupt_batch),
    Fault("schema-change", "refused at the gate, and by the server (422)", schema_change),
    Fault("drifted-inputs", "an alert; production stays", drifted_inputs),
    Fault("worse-model", "rolled back by the monitor, on labels", worse_model),
    Fault("crashing-model", "production answers instead; rolled back by the rollout", crashing_model),
    Fault("slow-model", "production answers instead; rolled back by the rollout", slow_model),
    Fault("lost-registry", "made again out of git and DVC", lost_registry),
    Fault("lost-cache-object", "noticed, fetched; refused where it is nowhere", lost_cache_object),
    Fault("killed-process", "before or after, never between; serves again", killed_process, down=True),
)
