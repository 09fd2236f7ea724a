"""What the passes over NumPy say of their arguments."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
